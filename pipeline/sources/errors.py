"""What a person reads when the input itself is wrong."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.errors import UsageError


class SourceError(UsageError):
    """The input cannot be read as asked: one line naming file, row, field, fault and remedy."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where in the input a row is."""

    file: str
    """Path or URL of the file, as one would open it."""
    name: str
    """The file's name relative to the input, which stays the same when the input is moved."""
    unit: str = ""
    """How rows are counted: "line" (of text, from 1), "row" or "item" (from 0); empty where the
    file is one row."""
    number: int = 0
    """Which one."""

    def __str__(self) -> str:
        return f"{self.name} {self.unit} {self.number}" if self.unit else self.name

    @property
    def where(self) -> str:
        """The place as an error names it."""
        return f"{self.file}, {self.unit} {self.number}" if self.unit else self.file

    def error(self, field: str, problem: str, allowed: str) -> SourceError:
        """The error for a field of this row."""
        counted = "" if self.unit in ("", "line") else " (counted from 0)"
        return SourceError(f"{self.where}{counted}, field {field}: {problem}; allowed: {allowed}")


def shown(value: object, limit: int = 60) -> str:
    """A value for an error message: one line, not too long."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
