"""A JSON file that holds one list of objects."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pipeline.sources.columns import Mapped
from pipeline.sources.errors import Place
from pipeline.sources.files import Found
from pipeline.sources.formats.base import Input, PlacedRow, Table
from pipeline.sources.formats.json_lines import holds_lines
from pipeline.sources.json_text import as_object, load_json, sampled_columns


class JsonList(Table):
    """The file is loaded whole."""

    name = "json"
    known_by = ".json"
    suffixes = (".json",)

    def find(self, found: Found) -> Input | None:
        """One `.json` file, named or alone in its folder, that is not one of lines."""
        file = found.only(".json")
        return None if file is None or holds_lines(file) else Input(file.url, self, (file,))

    def columns_of(self, source: Input) -> Sequence[str]:
        """Keys of the first rows."""
        return sampled_columns(source.url, (row.cells for row in self._rows(source)))

    def rows(self, source: Input, mapped: Mapped) -> Iterator[PlacedRow]:
        """The objects, with all their keys."""
        return self._rows(source)

    def _rows(self, source: Input) -> Iterator[PlacedRow]:
        (file,) = source.files
        values: list[Any] = load_json(file, list)
        for number, value in enumerate(values):
            place = Place(file.url, file.name, "item", number)
            yield PlacedRow(place, as_object(place, value))
