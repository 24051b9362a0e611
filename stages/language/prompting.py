"""Prompts: text files that become messages, with the data of a row quoted as data.

A prompt file has two parts, divided by a line `---`. The first is the system message and holds all
instructions; nothing of a row ever enters it. The second is the user's message; `{{name}}` in it
stands for a text or an image of the row. A text enters as a JSON string in which nothing can end
the string or pass for a control token of a chat template, so a caption that gives orders stays a
caption.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

from pydantic import BeforeValidator

from schemas.ids import content_id
from schemas.records import Image
from stages.language.chat import Message

FOLDER = Path(__file__).parent / "prompts"

_PLACEHOLDER = re.compile(r"\{\{\s*(\w+)\s*\}\}")
_DIVIDER = re.compile(r"^---[ \t]*$", re.MULTILINE)


Values = Mapping[str, str | Image | None]
"""What stands for a prompt's placeholders."""


@dataclass(frozen=True)
class Prompt:
    """A prompt file, read when the recipe is; its digest stands in the recipe's settings."""

    name: str
    """A shipped prompt (`prompts/NAME.txt`), or the path of a `.txt` file."""
    digest: str = ""
    """Content id of the text. Filled in; one that is given and does not fit is an error."""
    system: str = field(default="", init=False, repr=False)
    """The instructions."""
    user: str = field(default="", init=False, repr=False)
    """The user's message with its placeholders."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    def __post_init__(self) -> None:
        """Read the file; ValueError if it is missing or has no two parts."""
        shipped = sorted(path.stem for path in FOLDER.glob("*.txt"))
        path = Path(self.name) if self.name.endswith(".txt") else FOLDER / f"{self.name}.txt"
        if self.name not in shipped and not (self.name.endswith(".txt") and path.is_file()):
            raise ValueError(
                f"no prompt {self.name!r}; shipped are {', '.join(shipped)}; or give the path of "
                "a .txt file"
            )
        text = path.read_text("utf-8").strip()
        digest = content_id(text)
        if self.digest not in ("", digest):
            raise ValueError(
                f"prompt {self.name} has the digest {digest}, not {self.digest}; "
                "take the digest out, or restore the text"
            )
        parts = [part.strip() for part in _DIVIDER.split(text)]
        if len(parts) != 2 or not all(parts):
            raise ValueError(
                f"prompt {self.name} must have two parts, instructions and data, divided by one "
                f"line `---`; it has {len(parts)}"
            )
        if found := _PLACEHOLDER.findall(parts[0]):
            raise ValueError(
                f"prompt {self.name}: {{{{{found[0]}}}}} stands among the instructions; data of a "
                "row may stand below the line `---` only"
            )
        object.__setattr__(self, "digest", digest)
        object.__setattr__(self, "system", parts[0])
        object.__setattr__(self, "user", parts[1])

    def require(self, names: Collection[str], optional: Collection[str] = ()) -> None:
        """ValueError unless the prompt has these placeholders, perhaps the optional, no others."""
        found, needed = set(_PLACEHOLDER.findall(self.user)), set(names)
        unknown, missing = found - needed - set(optional), needed - found
        for wrong, what in ((unknown, "unknown"), (missing, "missing")):
            if wrong:
                also = f" and may have {', '.join(sorted(optional))}" if optional else ""
                raise ValueError(
                    f"prompt {self.name}: {what} placeholder {{{{{min(wrong)}}}}}; it must have "
                    f"{', '.join(sorted(names))}{also}"
                )

    def messages(self, values: Values) -> tuple[Message, ...]:
        """The system's and the user's message, each placeholder replaced by its value.

        Texts are quoted (`quote`), None becomes null, an image becomes a part of its own.
        """
        parts: list[str | Image] = []
        text = ""
        for i, piece in enumerate(_PLACEHOLDER.split(self.user)):
            if i % 2 == 0:
                text += piece
                continue
            value = values[piece]
            if isinstance(value, Image):
                parts += [text.strip("\n"), value] if text.strip() else [value]
                text = ""
            else:
                text += quote(value)
        if text.strip():
            parts.append(text.strip("\n"))
        return (Message("system", (self.system,)), Message("user", tuple(parts)))


def _by_name(value: object) -> object:
    return {"name": value} if isinstance(value, str) else value


PromptField = Annotated[Prompt, BeforeValidator(_by_name)]
"""A stage's setting that is a prompt; a recipe may give its name alone."""


def quote(text: str | None) -> str:
    """The text as a JSON string that a chat template cannot take for its own tokens; null for None.

    Besides what JSON escapes, angle brackets ("<|im_end|>", "<image>") and all characters that
    have no shape of their own (controls, marks of direction, surrogates) are written as escapes.
    """
    if text is None:
        return "null"
    return "".join(
        _escaped(c) if c in "<>" or (unicodedata.category(c)[0] in "CZ" and c != " ") else c
        for c in json.dumps(text, ensure_ascii=False)
    )


def _escaped(char: str) -> str:
    units = char.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))
