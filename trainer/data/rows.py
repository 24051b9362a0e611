"""Rows of finished runs, read when they are asked for. Knows shards, not models.

Only an index stays in memory: where each row is, its id, its image and what it lacks. A row's
content is read from the row group that holds it; one such group or a few are kept.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from schemas.arrow import from_row, schema_of
from schemas.files import Folder
from schemas.holdout import FOLD, VALIDATION, is_held_out, source_image
from schemas.ids import content_id
from schemas.records import SCHEMA_VERSION, Contrast, Image, Pair, Span
from trainer.data.shard_files import ShardFile, open_shards
from trainer.errors import UsageError

log = logging.getLogger(__name__)

CACHE_BYTES = 256 * 2**20
"""Row groups that a process keeps: some eight, of 32 MB each."""

MANY_ROWS = 20
"""Pairs that one source image may well have."""

_TEXTS = ("prompt", "chosen", "rejected", "counterfactual")
_SPANS = {
    "chosen_spans": "chosen",
    "counterfactual_spans": "counterfactual",
    "rejected_spans": "rejected",
}
_SINCE = {"rejected_spans": 3}
"""Columns that files of an older schema lack, and the schema that brought them."""
_READABLE = range(2, SCHEMA_VERSION + 1)
"""Schema versions that are read."""
_IMAGES = ("chosen_image", "rejected_image")
_OUTSIDE = "spans inside the answer"
_CHECKED = (*_TEXTS, *_SPANS, *_IMAGES, *(f"{name} inside" for name in _SPANS))
"""What a row may lack; bit i of a row's index entry says that it lacks the i-th."""

_INDEX_COLUMNS = (
    *("pair_id", "seed_id", "chosen_image.path", "provenance.params"),
    *(*_TEXTS, *_SPANS),
)


@dataclass(frozen=True, slots=True)
class Row:
    """The columns of a pair that training reads, as `schemas.records.Pair` has them."""

    pair_id: str
    """As in `Pair`."""
    seed_id: str
    """As in `Pair`."""
    chosen_image: Image
    """As in `Pair`."""
    rejected_image: Image
    """As in `Pair`."""
    prompt: str
    """As in `Pair`."""
    chosen: str
    """As in `Pair`."""
    rejected: str | None
    """As in `Pair`."""
    counterfactual: str | None
    """As in `Pair`."""
    chosen_spans: tuple[Span, ...]
    """As in `Pair`."""
    counterfactual_spans: tuple[Span, ...]
    """As in `Pair`."""
    rejected_spans: tuple[Span, ...] | None
    """As in `Pair`."""
    contrast: Contrast
    """As in `Pair`."""


@dataclass(frozen=True)
class _Index:
    """One entry a row, over all files in order."""

    pair_ids: pa.Array
    images: pa.Array
    folds: pa.Array
    lacks: NDArray[np.uint16]


class Rows:
    """Some rows of some runs, in order: `rows[i]` reads one."""

    def __init__(self, files: Sequence[ShardFile], index: _Index, numbers: NDArray[Any]) -> None:
        """Made by `Rows.open`, `usable`, `split` and `select`."""
        self._files = files
        self._index = index
        self._numbers = numbers
        self._starts = np.cumsum([0, *(n for file in files for n in file.group_rows)])
        self._places = [(f, g) for f, file in enumerate(files) for g in range(len(file.group_rows))]
        self._groups: OrderedDict[int, pa.Table] = OrderedDict()

    @classmethod
    def open(cls, runs: Sequence[str], *, split: str = "train", cache: Path | None = None) -> Rows:
        """All pairs of finished runs: local folders or URLs, in the order given.

        Files behind a URL are copied once to `cache` (default: the user's cache folder), because a
        shuffled epoch reads every row group many times. Raises UsageError for a folder without
        shards, another schema version, missing columns, damage, and a pair that is there twice.
        """
        files = [file for run in runs for file in open_shards(Folder.at(run), split, cache)]
        for file in files:
            _check(file)
        index = _build_index(files)
        return cls(files, index, np.arange(len(index.lacks)))

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, number: int) -> Row:
        place = int(self._numbers[number])
        group = bisect_right(self._starts, place) - 1
        offset = place - int(self._starts[group])
        (row,) = self._group(group).slice(offset, 1).to_pylist()
        return from_row(Row, row)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_groups": OrderedDict()}

    @property
    def pair_ids(self) -> list[str]:
        """Ids by row number."""
        found: list[str] = self._index.pair_ids.take(pa.array(self._numbers)).to_pylist()
        return found

    @property
    def images(self) -> list[str]:
        """Which source image a row is of: its file name, or the seed's id where it has none."""
        found: list[str] = self._index.images.take(pa.array(self._numbers)).to_pylist()
        return found

    @property
    def digest(self) -> str:
        """Content id of the rows in order; pair ids name content."""
        return content_id(*self.pair_ids)

    def columns(self, names: Sequence[str]) -> pa.Table:
        """Columns of `Pair` for these rows, in order; not the images, which would not fit."""
        assert not set(names) & set(_IMAGES), "images are read row by row"
        groups = [_read(self._files[f], g, names) for f, g in self._places]
        return pa.concat_tables(groups).take(pa.array(self._numbers))

    def select(self, numbers: Iterable[int]) -> Rows:
        """The rows with these numbers, in that order."""
        return Rows(self._files, self._index, self._numbers[np.fromiter(numbers, np.int64)])

    def split(self, share: float, seed: int) -> tuple[Rows, Rows]:
        """Rows to train on and rows held out: about `share` of the source images.

        `schemas.holdout.is_held_out` says which: all pairs of one source image are on one side, and
        stay there whatever else is added; pairs of two photos follow their fold.
        """
        images = self.images
        name, number = Counter(images).most_common(1)[0] if images else ("", 0)
        if number > MANY_ROWS and number > len(self) / 10:
            log.warning(
                "%d of %d rows are held for pairs of one source image, because the files are all "
                "called %s; images with names of their own split evenly",
                *(number, len(self), name),
            )
        folds = self._index.folds.take(pa.array(self._numbers)).to_pylist()
        if share > 0 and any(folds) and VALIDATION not in folds:
            log.warning(
                "no pair of two photos is held out: none was set aside when they were paired; set "
                "pairing.validation of the recipe"
            )
        sides = [is_held_out(p, f, share, seed) for p, f in zip(images, folds, strict=True)]
        held = np.array(sides, dtype=bool)
        return self.select(np.flatnonzero(~held)), self.select(np.flatnonzero(held))

    def usable(self, needs: Iterable[str], what: str) -> tuple[Rows, RowCounts]:
        """The rows that have what `needs` names (a loss's `needs`), and a report for a person.

        Of several columns of spans some may be empty: a pure insertion has none on one side. `what`
        names who needs it, for messages. Raises UsageError where no row is left, and for files of
        an older schema that lack a column which is needed.
        """
        needs = frozenset(needs)
        for name in sorted(needs & set(_SINCE)):
            if old := next((f for f in self._files if name not in f.schema.names), None):
                raise UsageError(
                    f"{old.name} has schema version {old.version}, and {what} needs {name}, which "
                    f"runs have from version {_SINCE[name]} on; make the run again, or take a loss "
                    "that does not need it"
                )
        lacks = self._index.lacks[self._numbers]
        spans = sorted(needs & set(_SPANS))
        lacking = {name: _bit(lacks, name) for name in sorted(needs - set(spans))}
        if spans:
            lacking["spans"] = np.all([_bit(lacks, name) for name in spans], axis=0)
            lacking[_OUTSIDE] = np.any([_bit(lacks, f"{name} inside") for name in spans], axis=0)
        bad = np.any([*lacking.values(), np.zeros(len(self), bool)], axis=0)
        counts = {name: int(mask.sum()) for name, mask in lacking.items() if mask.any()}
        report = RowCounts(what, needs, len(self), len(self) - int(bad.sum()), counts)
        if not report.kept:
            raise UsageError(
                f"nothing to train on: {report}; use a recipe that fills these columns"
            )
        return self.select(np.flatnonzero(~bad)), report

    def _group(self, number: int) -> pa.Table:
        if number in self._groups:
            self._groups.move_to_end(number)
            return self._groups[number]
        file, group = self._places[number]
        table = _read(self._files[file], group, schema_of(Row).names)
        self._groups[number] = table
        while len(self._groups) > 1 and sum(t.nbytes for t in self._groups.values()) > CACHE_BYTES:
            self._groups.popitem(last=False)
        return table


@dataclass(frozen=True, slots=True)
class RowCounts:
    """How many rows have what is needed."""

    what: str
    """Who needs it."""
    needs: frozenset[str]
    """Columns of `Pair`."""
    total: int
    """Rows looked at."""
    kept: int
    """Rows that have everything."""
    lacking: dict[str, int]
    """Rows by what they lack; a row may lack several things."""

    def __str__(self) -> str:
        """One line for a person."""
        text = f"{self.what} needs {', '.join(sorted(self.needs))}; "
        if not self.lacking:
            return text + f"all {self.total} rows have them"
        parts = ", ".join(f"{number} lack {name}" for name, number in self.lacking.items())
        return text + f"of {self.total} rows {parts}; {self.kept} are left"


def _check(file: ShardFile) -> None:
    """UsageError unless the file holds pairs of this schema version."""
    wanted = schema_of(Pair)
    if file.version not in map(str, _READABLE):
        raise UsageError(
            f"{file.name} has schema version {file.version}, this code reads "
            f"{' and '.join(map(str, _READABLE))}; "
            "give runs of this version of the pipeline, not exports or files that were rewritten"
        )
    later = {name for name, since in _SINCE.items() if int(file.version) < since}
    needed = [name for name in (*schema_of(Row).names, "provenance") if name not in later]
    missing = [name for name in needed if name not in file.schema.names]
    if missing:
        raise UsageError(
            f"{file.name} lacks the columns {', '.join(missing)}; "
            "the trainer reads data/*.parquet of a run as the run wrote them"
        )
    for name in needed:
        kind, expected = file.schema.field(name).type, wanted.field(name).type
        if not kind.equals(expected):
            raise UsageError(
                f"{file.name}: column {name} is {kind}, not {expected}; "
                "give data/*.parquet as the run wrote them"
            )


def _read(file: ShardFile, group: int, columns: Sequence[str]) -> pa.Table:
    try:
        with pq.ParquetFile(file.path, memory_map=True, page_checksum_verification=True) as source:
            # Threads of Arrow do not outlive a fork, and readers are often forked.
            table = source.read_row_group(group, list(columns), use_threads=False)
    except (OSError, pa.ArrowException) as error:
        message = " ".join(str(error).split())
        raise UsageError(f"{file.name}, row group {group}, cannot be read: {message}") from error
    for name in set(columns) & set(_SINCE) - set(table.column_names):
        kind = schema_of(Pair).field(name).type
        table = table.append_column(name, pa.nulls(table.num_rows, kind))
    return table


def _build_index(files: Sequence[ShardFile]) -> _Index:
    ids: list[pa.Array] = []
    images: list[str] = []
    folds: list[pa.Array] = []
    lacks: list[NDArray[np.uint16]] = []
    for file in files:
        for group in range(len(file.group_rows)):
            table = _read(file, group, _INDEX_COLUMNS)
            ids += table["pair_id"].chunks
            paths = pc.struct_field(table["chosen_image"], "path").to_pylist()
            images += map(source_image, paths, table["seed_id"].to_pylist())
            folds.append(_folds(table))
            lacks.append(_lacks(table))
    index = _Index(
        pa.chunked_array(ids, pa.string()).combine_chunks(),
        pa.array(images, pa.string()),
        pa.chunked_array(folds, pa.string()).combine_chunks(),
        np.concatenate([np.zeros(0, np.uint16), *lacks]),
    )
    twice = [name for name, number in Counter(index.pair_ids.to_pylist()).items() if number > 1]
    if twice:
        raise UsageError(
            f"{len(twice)} pairs occur twice, for example {twice[0]}; give each run once"
        )
    return index


def _folds(table: pa.Table) -> pa.Array:
    """The fold of each row, null for those without."""
    params = pc.struct_field(table["provenance"], "params").combine_chunks()
    found = pc.list_flatten(params)
    of_row = pc.list_parent_indices(params)
    is_fold = pc.equal(pc.struct_field(found, "name"), FOLD)
    values = dict(
        zip(
            of_row.filter(is_fold).to_pylist(),
            pc.struct_field(found, "value").filter(is_fold).to_pylist(),
            strict=True,
        )
    )
    return pa.array([values.get(row) for row in range(table.num_rows)], pa.string())


def _lacks(table: pa.Table) -> NDArray[np.uint16]:
    """What each row lacks, as bits. The images are always there: no recipe emits a row without."""
    found = np.zeros(table.num_rows, np.uint16)

    def mark(name: str, rows: NDArray[np.bool_]) -> None:
        found[rows] |= np.uint16(1 << _CHECKED.index(name))

    for name in _TEXTS:
        text = table[name]
        mark(name, np.asarray(pc.fill_null(pc.equal(text, ""), fill_value=True)))
    for name, answer in _SPANS.items():
        spans, texts = table[name].to_pylist(), table[answer].to_pylist()
        mark(name, np.array([not row for row in spans], dtype=bool))
        pairs = zip(spans, texts, strict=True)
        outside = [not _inside(row or (), text) for row, text in pairs]
        mark(f"{name} inside", np.array(outside, dtype=bool))
    return found


def _inside(spans: Iterable[Sequence[int]], text: str | None) -> bool:
    return all(0 <= start < end <= len(text or "") for start, end in spans)


def _bit(lacks: NDArray[np.uint16], name: str) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = (lacks >> _CHECKED.index(name)) & 1 == 1
    return found
