"""JSON lines: one object a line."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence

from pipeline.sources.columns import Mapped
from pipeline.sources.errors import Place
from pipeline.sources.files import Found, InputFile
from pipeline.sources.formats.base import Input, PlacedRow, Table
from pipeline.sources.json_text import as_object, parse_json, sampled_columns, start_of


class JsonLines(Table):
    """One line in memory at a time; blank lines do not count."""

    name = "jsonl"
    known_by = ".jsonl"
    suffixes = (".jsonl",)

    def find(self, found: Found) -> Input | None:
        """The `.jsonl` files, or a `.json` file whose first line is an object."""
        if names := found.ending(".jsonl"):
            return Input(found.url, self, tuple(found.file(name) for name in names))
        file = found.only(".json")
        return Input(file.url, self, (file,)) if file is not None and holds_lines(file) else None

    def columns_of(self, source: Input) -> Sequence[str]:
        """Keys of the first rows."""
        return sampled_columns(source.url, (row.cells for row in self._rows(source)))

    def rows(self, source: Input, mapped: Mapped) -> Iterator[PlacedRow]:
        """The objects, with all their keys."""
        return self._rows(source)

    def _rows(self, source: Input) -> Iterator[PlacedRow]:
        for file in source.files:
            with file.open() as stream:
                for number, line in enumerate(stream, start=1):
                    place = Place(file.url, file.name, "line", number)
                    data = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                    if data.strip():
                        yield PlacedRow(place, as_object(place, parse_json(data, place.where)))


def holds_lines(file: InputFile) -> bool:
    """Whether the first line of a file is an object by itself."""
    try:
        return isinstance(json.loads(start_of(file).split(b"\n", 1)[0]), dict)
    except (ValueError, RecursionError):
        return False
