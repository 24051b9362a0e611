"""Data files of runs: which there are, and their row groups. Knows footers, not what rows mean.

A row group is read by the byte ranges of its columns, from a disk or an object store alike: no file
is copied. Files stay open, since opening one means to fetch and parse its footer.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.files import FileFacts, Folder
from trainer.errors import UsageError

OPEN_FILES = 64
"""Files that a process keeps open."""


@dataclass(frozen=True, slots=True)
class ShardFile:
    """A data file of a run."""

    run: Folder
    """The run."""
    name: str
    """Its path in the run."""
    version: str
    """Schema version as the file states it; "unknown" where it states none."""
    group_rows: tuple[int, ...]
    """Rows of every row group."""

    @property
    def shown(self) -> str:
        """Path or URL, for messages."""
        return self.run.join(self.name)


def list_shards(run: Folder, split: str) -> list[FileFacts]:
    """The data files of a run by name: those in `data/` and in its sub-folders.

    UsageError for a folder without.
    """
    found = []
    for file in run.below("data"):
        name = file.name.rpartition("/")[2]
        if name.startswith(f"{split}-") and name.endswith(".parquet"):
            found.append(file)
    if found:
        return found
    unfinished = run.exists("run.json")
    raise UsageError(
        f"{run.url} has no data/{split}-*.parquet: "
        + (
            "the run is not finished, or has no pairs (`python -m pipeline status`)"
            if unfinished
            else "it is not a run directory"
        )
    )


class OpenFiles:
    """Data files that stay open, those used last. For many threads, but not across a fork."""

    def __init__(self, most: int = OPEN_FILES) -> None:
        """Keep `most` files."""
        self._most = most
        self._free: OrderedDict[str, list[pq.ParquetFile]] = OrderedDict()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[Self], tuple[int]]:
        return type(self), (self._most,)

    @contextmanager
    def lent(self, run: Folder, name: str) -> Iterator[pq.ParquetFile]:
        """A file for one thread; UsageError, which names it, for what goes wrong with it."""
        key = run.join(name)
        with self._lock:
            idle = self._free.get(key)
            file = idle.pop() if idle else None
        try:
            file = file or _opened(run, name)
            yield file
        except (OSError, pa.ArrowException) as error:
            message = " ".join(str(error).split())
            raise UsageError(f"{key} cannot be read: {message}") from error
        with self._lock:
            self._free.setdefault(key, []).append(file)
            self._free.move_to_end(key)
            while len(self._free) > self._most:
                _, old = self._free.popitem(last=False)
                for one in old:
                    one.close()

    def read(self, file: ShardFile, group: int, columns: Sequence[str]) -> pa.Table:
        """A row group's columns, those of them that the file has; UsageError as `lent`."""
        with self.lent(file.run, file.name) as source:
            try:
                # Threads of Arrow do not outlive a fork, and a reader may be forked.
                return source.read_row_group(group, list(columns), use_threads=False)
            except (OSError, pa.ArrowException) as error:
                message = " ".join(str(error).split())
                raise UsageError(
                    f"{file.shown}, row group {group}, cannot be read: {message}"
                ) from error


def _opened(run: Folder, name: str) -> pq.ParquetFile:
    # A mapped file is read without a copy; ranges from a store are fetched side by side.
    if run.local:
        source = run.join(name)
        return pq.ParquetFile(source, memory_map=True, page_checksum_verification=True)
    return pq.ParquetFile(run.open(name), pre_buffer=True, page_checksum_verification=True)
