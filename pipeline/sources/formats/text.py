"""Rows of JSON files: line by line, or a list in one file."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any, NamedTuple

from pipeline.sources.files import Input, InputFile
from pipeline.sources.formats.errors import Place, SourceError, shown

_NUM_SAMPLED = 100
"""Rows whose keys count as the columns of the input."""


class PlacedRow(NamedTuple):
    """A row as the input has it, and where it is."""

    place: Place
    cells: Mapping[str, Any]


def jsonl_rows(source: Input) -> Iterator[PlacedRow]:
    """The objects of JSON-lines files, one line in memory at a time; blank lines do not count."""
    for file in source.files:
        with file.open() as stream:
            for number, line in enumerate(stream, start=1):
                place = Place(file.url, file.name, "line", number)
                data = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                if data.strip():
                    value = parse_json(data, f"{file.url}, line {number}")
                    yield PlacedRow(place, _object(place, value))


def json_rows(source: Input) -> Iterator[PlacedRow]:
    """The objects of one JSON list, which is loaded whole."""
    (file,) = source.files
    for number, value in enumerate(load_json(file, list)):
        place = Place(file.url, file.name, "item", number)
        yield PlacedRow(place, _object(place, value))


def load_json(file: InputFile, expected: type[list[Any] | dict[str, Any]]) -> Any:
    """The value of a JSON file; `SourceError` if it is not valid or not of that type."""
    with file.open() as stream:
        value = parse_json(stream.read().removeprefix(b"\xef\xbb\xbf"), file.url)
    if not isinstance(value, expected):
        kind = "a list of objects" if expected is list else "an object"
        raise SourceError(f"{file.url}: found {shown(value)}; allowed: {kind}")
    return value


def parse_json(data: bytes, where: str) -> Any:
    """The value of a JSON text; `SourceError` naming what is wrong with it."""
    try:
        return json.loads(data.decode())
    except UnicodeDecodeError as error:
        raise SourceError(f"{where}: not valid UTF-8 at byte {error.start}") from error
    except json.JSONDecodeError as error:
        line = f"line {error.lineno} " if error.lineno > 1 else ""
        problem = f"{error.msg} at {line}column {error.colno}"
        raise SourceError(f"{where}: not valid JSON: {problem}") from error
    except (ValueError, RecursionError) as error:  # a number or a nesting beyond all measure
        raise SourceError(f"{where}: not valid JSON: {str(error).splitlines()[0]}") from error


def sampled_columns(rows: Iterator[PlacedRow]) -> list[str]:
    """Keys of the first rows, those of nested objects with dots, in order of appearance."""
    names: dict[str, None] = {}
    for row in islice(rows, _NUM_SAMPLED):
        _collect(row.cells, "", names)
    return list(names)


def _collect(cells: Mapping[str, Any], prefix: str, names: dict[str, None]) -> None:
    for key, value in cells.items():
        names[f"{prefix}{key}"] = None
        if isinstance(value, Mapping):
            _collect(value, f"{prefix}{key}.", names)


def _object(place: Place, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise SourceError(
            f"{place.file}, {place.unit} {place.number}: found {shown(value)}; allowed: an object"
        )
    return value
