"""Digests of a folder's files, and what differs from them later. Knows folders, not checkpoints."""

from __future__ import annotations

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from hashlib import blake2b
from pathlib import Path
from typing import Any

from schemas.ids import content_id

_PIECE = 2**26
"""Bytes of a piece. Several threads hash the pieces of a file: a processor hashes a gigabyte a
second, and a checkpoint of a large model has hundreds."""
_THREADS = 8

Files = dict[str, dict[str, Any]]
"""Path in the folder: `bytes` and `digest` of every file."""


def digests(folder: Path) -> Files:
    """Size and digest of every file below a folder.

    Not of those whose names begin with a dot, as file systems put some there themselves.
    """
    return {name: {"bytes": p.stat().st_size, "digest": _of(p)} for name, p in _files(folder)}


def difference(
    folder: Path, record: Mapping[str, Mapping[str, Any]], *, ignoring: str
) -> str | None:
    """The first difference from what `digests` found earlier, in words; None where there is none.

    A file called `ignoring` is not looked at.
    """
    here = {name: path for name, path in _files(folder) if name != ignoring}
    if missing := sorted(record.keys() - here.keys()):
        return f"{missing[0]} is missing"
    if foreign := sorted(here.keys() - record.keys()):
        return f"{foreign[0]} is not one of its files"
    for name, path in here.items():
        size = path.stat().st_size
        if size != record[name]["bytes"]:
            return f"{name} has {size} bytes, {record[name]['bytes']} were written"
    for name, path in here.items():
        if _of(path) != record[name]["digest"]:
            return f"{name} is not what was written: its digest differs"
    return None


def _files(folder: Path) -> list[tuple[str, Path]]:
    found = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    named = [(path.relative_to(folder).as_posix(), path) for path in found]
    return [(name, path) for name, path in named if not path.name.startswith(".")]


def _of(path: Path) -> str:
    """Content id of the digests of the file's pieces."""
    with path.open("rb") as stream, ThreadPoolExecutor(_THREADS) as pool:
        descriptor, size = stream.fileno(), path.stat().st_size
        starts = range(0, size, _PIECE)
        return content_id(size, *pool.map(lambda start: _piece(descriptor, start), starts))


def _piece(descriptor: int, start: int) -> str:
    digest = blake2b(digest_size=16)
    for place in range(start, start + _PIECE, 2**22):
        digest.update(os.pread(descriptor, 2**22, place))
    return digest.hexdigest()
