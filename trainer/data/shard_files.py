"""Data files of runs, on this machine's disk. Knows files and footers, not what rows mean."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.files import Folder
from schemas.ids import content_id
from trainer.errors import UsageError

log = logging.getLogger(__name__)

VERSION_KEY = b"nearmiss_schema_version"
_TAIL_BYTES = 2**16
_COPY_BYTES = 2**24


@dataclass(frozen=True, slots=True)
class ShardFile:
    """A data file of a run."""

    name: str
    """Path or URL, for messages."""
    path: str
    """Where it is on this machine."""
    schema: pa.Schema
    """Its columns."""
    version: str
    """Schema version as the file states it; "unknown" where it states none."""
    group_rows: tuple[int, ...]
    """Rows of every row group."""


def open_shards(run: Folder, split: str, cache: Path | None) -> list[ShardFile]:
    """The data files of a run, in order; those behind a URL are copied to `cache` first.

    Raises UsageError for a folder without data files, and for files that cannot be read.
    """
    names = [n for n in run.names("data") if n.startswith(f"{split}-") and n.endswith(".parquet")]
    if not names:
        unfinished = run.exists("run.json")
        raise UsageError(
            f"{run.url} has no data/{split}-*.parquet: "
            + (
                "the run is not finished, or has no pairs (`python -m pipeline status`)"
                if unfinished
                else "it is not a run directory"
            )
        )
    return [_open(run, f"data/{name}", cache) for name in names]


def _open(run: Folder, name: str, cache: Path | None) -> ShardFile:
    shown = run.join(name)
    try:
        path = shown if run.local else _copied(run, name, cache or _user_cache())
        with pq.ParquetFile(path, memory_map=True) as file:
            groups = [file.metadata.row_group(g).num_rows for g in range(file.num_row_groups)]
            metadata = file.schema_arrow.metadata or {}
            version = metadata.get(VERSION_KEY, b"unknown").decode()
            return ShardFile(shown, path, file.schema_arrow, version, tuple(groups))
    except (OSError, pa.ArrowException) as error:
        message = " ".join(str(error).split())
        raise UsageError(f"{shown} cannot be read: {message}") from error


def _user_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "nearmiss" / "shards"


def _copied(run: Folder, name: str, cache: Path) -> str:
    """Path of the file's copy, made if there is none; the name follows the footer's content.

    Several processes may copy the same file at once: each ends with a whole one.
    """
    with run.open(name) as source:
        size = source.size()
        source.seek(max(0, size - _TAIL_BYTES))
        key = content_id(run.join(name), size, bytes(source.read()))
        folder = Folder.at(str(cache))
        copy = f"{key}.parquet"
        if not folder.exists(copy):
            log.info("copying %s (%.0f MB) to %s", run.join(name), size / 1e6, cache)
            source.seek(0)
            with folder.replacing(copy, durable=False) as temporary, temporary.open("wb") as out:
                while block := source.read(_COPY_BYTES):
                    out.write(block)
    return folder.join(copy)
