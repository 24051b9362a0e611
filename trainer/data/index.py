"""What is known of every row without its images: id, source image, texts, what it lacks.

Read from the text columns of all files. Where these are many or far away, one process of a machine
reads them and writes an index file to the cache, for which the others wait. Knows no model.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from schemas.arrow import schema_of
from schemas.files import FileFacts, Folder
from schemas.holdout import FOLD
from schemas.ids import content_id
from schemas.records import SCHEMA_VERSION, Pair
from trainer.data.shard_files import OpenFiles, ShardFile, list_shards
from trainer.errors import UsageError

log = logging.getLogger(__name__)

SINCE = {"rejected_spans": 3}
"""Columns that files of an older schema lack, and the schema that brought them."""
TEXTS = ("prompt", "chosen", "rejected", "counterfactual")
SPANS = {
    "chosen_spans": "chosen",
    "counterfactual_spans": "counterfactual",
    "rejected_spans": "rejected",
}
"""Columns of spans, each with the text that they lie in."""
IMAGES = ("chosen_image", "rejected_image")
CHECKED = (*TEXTS, *SPANS, *IMAGES, *(f"{name} inside" for name in SPANS))
"""What a row may lack; bit i of `lacks` says that it lacks the i-th."""

_COLUMNS = (
    *("pair_id", "seed_id", "chosen_image.path", "provenance.params"),
    *(*TEXTS, *SPANS),
)
_SCHEMA = pa.schema(
    [
        ("pair_id", pa.large_string()),
        ("image", pa.large_string()),
        ("fold", pa.string()),
        ("lacks", pa.uint16()),
        ("prompt", pa.large_string()),
        *((f"{name} bytes", pa.int32()) for name in TEXTS),
    ]
)
_READABLE = range(2, SCHEMA_VERSION + 1)
"""Schema versions that are read."""
_VERSION_KEY = b"nearmiss_schema_version"
_FILES = b"nearmiss_files"
_FORM = 1
"""Of index files; another form is another file."""

CACHED_FILES = 256
"""Files from which on the index of a run on a disk is cached, too."""
_THREADS = 32
"""Files read at a time: most of the time goes by waiting for a store."""
_TOGETHER = 256
"""Files whose columns are looked at together."""


@dataclass(frozen=True)
class Index:
    """The files of some runs, and one entry a row over all of them in order."""

    files: tuple[ShardFile, ...]
    """Files in order."""
    entries: pa.Table
    """Rows of `pair_id`; `image`: the file name of the source image, or the seed's id where it has
    none; `fold`, null for most; `lacks`: bits of `CHECKED`; `prompt`; and the UTF-8 `... bytes` of
    every text, 0 for one that is missing."""


def open_index(runs: Sequence[str], split: str, cache: Path | None) -> Index:
    """The index of all rows of finished runs, in the order given.

    `cache` holds index files; by default a folder of the user's. UsageError for a folder without
    data files, another schema version, missing columns, damage, and a pair that is there twice.
    """
    parts = [_of_run(Folder.at(run), split, cache or _user_cache()) for run in runs]
    entries = pa.concat_tables(part.entries for part in parts).combine_chunks()
    _refuse_twice(entries["pair_id"])
    return Index(tuple(file for part in parts for file in part.files), entries)


def _of_run(run: Folder, split: str, cache: Path) -> Index:
    listed = list_shards(run, split)
    if run.local and len(listed) < CACHED_FILES:
        return _built(run, listed)
    facts = [part for file in listed for part in (file.name, file.size, file.changed)]
    path = cache / f"{content_id(_FORM, run.url, *facts)}.arrow"
    if (found := _cached(run, path)) is None:
        with _alone(path.with_suffix(".lock")):
            # Another process may have built it while this one waited.
            if (found := _cached(run, path)) is None:
                log.info("reading the index of %d files of %s", len(listed), run.url)
                found = _built(run, listed)
                _write(found, path)
    return found


def _built(run: Folder, listed: Sequence[FileFacts]) -> Index:
    opened = OpenFiles(0)
    if not run.local:  # Arrow's own number of requests at a time is 8
        pa.set_io_thread_count(max(_THREADS, pa.io_thread_count()))
    files: list[ShardFile] = []
    entries = [_SCHEMA.empty_table()]
    with ThreadPoolExecutor(min(_THREADS, len(listed))) as pool:
        for start in range(0, len(listed), _TOGETHER):
            some = listed[start : start + _TOGETHER]
            read = list(pool.map(lambda file: _read(opened, run, file), some))
            files += [file for file, _ in read]
            entries.append(_entries(pa.concat_tables(table for _, table in read)))
    return Index(tuple(files), pa.concat_tables(entries).combine_chunks())


def _read(opened: OpenFiles, run: Folder, listed: FileFacts) -> tuple[ShardFile, pa.Table]:
    """A file's facts and the columns that the index is made of, whatever its schema."""
    with opened.lent(run, listed.name) as source:
        metadata, schema = source.metadata, source.schema_arrow
        groups = tuple(metadata.row_group(g).num_rows for g in range(source.num_row_groups))
        version = (schema.metadata or {}).get(_VERSION_KEY, b"unknown").decode()
        file = ShardFile(run, listed.name, version, groups)
        _check(file, schema)
        table = source.read(list(_COLUMNS), use_threads=False).replace_schema_metadata()
    return file, with_missing(table, _COLUMNS)


def with_missing(table: pa.Table, columns: Sequence[str]) -> pa.Table:
    """A table with nulls for those of the columns that files of an older schema lack."""
    for name in SINCE:
        if name in columns and name not in table.column_names:
            kind = schema_of(Pair).field(name).type
            table = table.append_column(name, pa.nulls(table.num_rows, kind))
    return table


def _check(file: ShardFile, schema: pa.Schema) -> None:
    """UsageError unless the file holds pairs of a schema version that is read."""
    wanted = schema_of(Pair)
    if file.version not in map(str, _READABLE):
        raise UsageError(
            f"{file.shown} has schema version {file.version}, this code reads "
            f"{' and '.join(map(str, _READABLE))}; "
            "give runs of this version of the pipeline, not exports or files that were rewritten"
        )
    later = {name for name, since in SINCE.items() if int(file.version) < since}
    needed = [name for name in _needed() if name not in later]
    missing = [name for name in needed if name not in schema.names]
    if missing:
        raise UsageError(
            f"{file.shown} lacks the columns {', '.join(missing)}; "
            "the trainer reads data/*.parquet of a run as the run wrote them"
        )
    for name in needed:
        kind, expected = schema.field(name).type, wanted.field(name).type
        if name == "provenance":  # which grows with the pipeline; one field of it is read here
            kind, expected = (x.field("params").type for x in (kind, expected))
        if not kind.equals(expected):
            raise UsageError(
                f"{file.shown}: column {name} is {kind}, not {expected}; "
                "give data/*.parquet as the run wrote them"
            )


def _needed() -> Iterator[str]:
    yield from ("pair_id", "seed_id", *IMAGES, *TEXTS, *SPANS, "contrast", "provenance")


def _entries(table: pa.Table) -> pa.Table:
    """The entries of some rows."""
    table = table.combine_chunks()
    paths = pc.struct_field(table["chosen_image"], "path")
    columns = [
        table["pair_id"],
        pc.coalesce(paths, table["seed_id"]),
        _folds(table),
        pa.array(_lacks(table)),
        table["prompt"],
        *(pc.fill_null(pc.binary_length(table[name]), 0) for name in TEXTS),
    ]
    return pa.table(dict(zip(_SCHEMA.names, columns, strict=True))).cast(_SCHEMA)


def _folds(table: pa.Table) -> pa.Array:
    """The fold of each row, null for those without."""
    params = pc.struct_field(_whole(table["provenance"]), "params")
    found = pc.list_flatten(params)
    is_fold = pc.equal(pc.struct_field(found, "name"), FOLD)
    values = pc.struct_field(found, "value").filter(is_fold)
    place = np.full(table.num_rows, -1)
    place[_numpy(pc.list_parent_indices(params).filter(is_fold))] = np.arange(len(values))
    return values.take(pa.array(place, mask=place < 0)).cast(pa.string())


def _lacks(table: pa.Table) -> NDArray[np.uint16]:
    """What each row lacks, as bits. The images are always there: no recipe emits a row without."""
    found = np.zeros(table.num_rows, np.uint16)

    def mark(name: str, rows: NDArray[np.bool_]) -> None:
        found[rows] |= np.uint16(1 << CHECKED.index(name))

    for name in TEXTS:
        mark(name, _numpy(pc.fill_null(pc.equal(table[name], ""), fill_value=True)))
    for name, answer in SPANS.items():
        spans = _whole(table[name])
        mark(name, _numpy(pc.fill_null(pc.list_value_length(spans), 0)) == 0)
        length = _numpy(pc.fill_null(pc.utf8_length(table[answer]), 0))
        row = _numpy(pc.list_parent_indices(spans))
        ends = _numpy(pc.list_flatten(pc.list_flatten(spans))).reshape(-1, 2)
        inside = (ends[:, 0] >= 0) & (ends[:, 0] < ends[:, 1]) & (ends[:, 1] <= length[row])
        outside = np.zeros(table.num_rows, bool)
        outside[row[~inside]] = True
        mark(f"{name} inside", outside)
    return found


def lacking(lacks: NDArray[np.uint16], name: str) -> NDArray[np.bool_]:
    """Which rows lack something that `CHECKED` names."""
    found: NDArray[np.bool_] = (lacks >> CHECKED.index(name)) & 1 == 1
    return found


def _whole(column: pa.ChunkedArray) -> pa.Array:
    found = column.combine_chunks()
    if isinstance(found, pa.ChunkedArray):
        return found.chunk(0) if found.num_chunks else pa.array([], found.type)
    return found


def _numpy(values: pa.Array | pa.ChunkedArray) -> NDArray[Any]:
    found: NDArray[Any] = values.to_numpy(zero_copy_only=False)
    return found


def _refuse_twice(ids: pa.ChunkedArray) -> None:
    if pc.count_distinct(ids).as_py() == len(ids):
        return
    counts = pc.value_counts(ids)
    twice = counts.filter(pc.greater(pc.struct_field(counts, "counts"), 1))
    raise UsageError(
        f"{len(twice)} pairs occur twice, for example {twice[0]['values']}; give each run once"
    )


def _user_cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "nearmiss" / "indices"


@contextmanager
def _alone(lock: Path) -> Iterator[None]:
    """Hold a lock that all processes of the machine wait for; a killed one lets go of it."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _write(index: Index, path: Path) -> None:
    files = [[file.name, file.version, file.group_rows] for file in index.files]
    schema = _SCHEMA.with_metadata({_FILES: json.dumps(files)})
    with (
        Folder.at(str(path.parent)).replacing(path.name, durable=False) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, schema) as writer,
    ):
        writer.write_table(index.entries.cast(schema))


def _cached(run: Folder, path: Path) -> Index | None:
    """The index in a file, which all processes of the machine have in memory once."""
    try:
        entries = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        files = json.loads((entries.schema.metadata or {})[_FILES])
    except FileNotFoundError:
        return None
    except (OSError, pa.ArrowException, ValueError, KeyError):
        log.warning("%s is damaged and is made again", path)
        return None
    return Index(
        tuple(ShardFile(run, name, version, tuple(rows)) for name, version, rows in files),
        entries.replace_schema_metadata(),
    )
