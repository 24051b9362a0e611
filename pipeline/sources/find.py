"""Which format an input is in: every format is asked."""

from __future__ import annotations

from collections.abc import Collection

from pipeline.sources.errors import SourceError
from pipeline.sources.files import Found, file_at, look, one_line
from pipeline.sources.formats import Format, Input, Table, formats


def find_input(url: str, wanted: Collection[str] = ()) -> Input:
    """The files behind what the user named; `SourceError` if there are none to be read.

    `wanted` names the formats to prefer where several recognise what they see.
    """
    if not url:
        raise SourceError(f"no input named; allowed: {_readable()}")
    with one_line(url):
        found = look(url, {suffix for one in formats() for suffix in one.suffixes})
        if found is None:
            raise SourceError(f"{url}: no such file or folder; allowed: {_readable()}")
        inputs = _recognised(found)
        chosen = [one for one in inputs if one.format.name in wanted] or inputs
        match chosen:
            case [only]:
                return only
            case [first, second, *_]:
                raise SourceError(_several(found, first.format, second.format))
        raise SourceError(_nothing(found))


def _recognised(found: Found) -> list[Input]:
    """The input as each format sees it that recognises it; tables only where no other does."""
    layouts: list[Format] = [one for one in formats() if not isinstance(one, Table)]
    tables: list[Format] = [one for one in formats() if isinstance(one, Table)]
    for group in (layouts, tables):
        inputs = [source for one in group if (source := one.find(found)) is not None]
        if inputs:
            return inputs
    lone = found.ending(".json")
    if len(lone) == 1 and not found.is_file:
        # A folder of images, and the one file that names them.
        return _recognised(file_at(f"{found.folder}/{lone[0]}"))
    return []


def _several(found: Found, first: Format, second: Format) -> str:
    table = f"'{found.folder}/*{first.suffixes[0]}'"
    how = table if isinstance(first, Table) else f"--columns preset={first.name}"
    return (
        f"{found.url}: holds both {first.known_by} and {second.known_by} files; name one kind, "
        f"as in {how}"
    )


def _nothing(found: Found) -> str:
    if found.is_file:
        return f"{found.url}: unknown kind of file; allowed: {_readable()}"
    holds = ", ".join(found.names[:5]) or "no file"
    return f"{found.url}: nothing to read (it holds: {holds}); allowed: {_readable()}"


def _readable() -> str:
    known = ", ".join(f"{one.known_by} ({one.name})" for one in formats())
    return f"a file, a folder, a pattern (*.parquet) or a URL of {known}"
