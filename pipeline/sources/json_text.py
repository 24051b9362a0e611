"""JSON as files hold it: parsed, with errors that name the file. Knows no format."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, TypeVar

from pipeline.sources.errors import Place, SourceError, shown
from pipeline.sources.files import InputFile

_NUM_SAMPLED = 100
"""Rows whose keys count as the columns of the input."""
_NUM_PEEKED_BYTES = 2**16

Whole = TypeVar("Whole", list[Any], dict[str, Any])
Part = TypeVar("Part", list[Any], dict[str, Any], str)

_KINDS: Mapping[type, str] = {list: "a list", dict: "an object", str: "a text"}
"""What a person calls the parts of a JSON file."""


def start_of(file: InputFile) -> bytes:
    """The first bytes of a file, without a byte order mark or blank space."""
    with file.open() as stream:
        return stream.read(_NUM_PEEKED_BYTES).removeprefix(b"\xef\xbb\xbf").lstrip()


def load_json(file: InputFile, expected: type[Whole]) -> Whole:
    """The value of a JSON file; `SourceError` if it is not valid or not of that type."""
    with file.open() as stream:
        value = parse_json(stream.read().removeprefix(b"\xef\xbb\xbf"), file.url)
    if not isinstance(value, expected):
        kind = "a list of objects" if expected is list else "an object"
        raise SourceError(f"{file.url}: found {shown(value)}; allowed: {kind}")
    return value


def parse_json(data: bytes, where: str) -> object:
    """The value of a JSON text; `SourceError` naming what is wrong with it."""
    try:
        return json.loads(data.decode())
    except UnicodeDecodeError as error:
        raise SourceError(f"{where}: not valid UTF-8 at byte {error.start}") from error
    except json.JSONDecodeError as error:
        line = f"line {error.lineno} " if error.lineno > 1 else ""
        problem = f"{error.msg} at {line}column {error.colno}"
        raise SourceError(f"{where}: not valid JSON: {problem}") from error
    except (ValueError, RecursionError) as error:  # a number or nesting too large to parse
        raise SourceError(f"{where}: not valid JSON: {str(error).splitlines()[0]}") from error


def as_kind(kind: type[Part], value: Any, place: Place, field: str) -> Part:
    """The value, which must be of that kind; SourceError otherwise."""
    if not isinstance(value, kind):
        raise place.error(field, f"found {shown(value)}", _KINDS[kind])
    return value


def as_object(place: Place, value: object) -> Mapping[str, Any]:
    """A row of a table; `SourceError` if it is not an object."""
    if not isinstance(value, dict):
        raise SourceError(f"{place.where}: found {shown(value)}; allowed: an object")
    return value


def sampled_columns(url: str, rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Keys of the first rows, those of nested objects with dots, in order of appearance."""
    names: dict[str, None] = {}
    for row in islice(rows, _NUM_SAMPLED):
        _collect(row, "", names)
    if not names:
        raise SourceError(f"{url}: empty; allowed: at least one row")
    return list(names)


def _collect(cells: Mapping[str, Any], prefix: str, names: dict[str, None]) -> None:
    for key, value in cells.items():
        names[f"{prefix}{key}"] = None
        if isinstance(value, Mapping):
            _collect(value, f"{prefix}{key}.", names)
