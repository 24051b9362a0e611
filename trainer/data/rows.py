"""Rows of finished runs, read when they are asked for. Knows shards, not models.

Only an index stays in memory (`trainer.data.index`). A row's content is read from the row group
that holds it; one such group or a few are kept.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from schemas.arrow import from_row, schema_of
from schemas.holdout import VALIDATION, is_held_out
from schemas.ids import content_id
from schemas.records import Contrast, Image, Pair, Span
from trainer.data.index import IMAGES, SINCE, SPANS, Index, lacking, open_index, with_missing
from trainer.data.shard_files import OpenFiles
from trainer.errors import UsageError

log = logging.getLogger(__name__)

CACHE_BYTES = 256 * 2**20
"""Row groups that a process keeps where it reads row by row: some eight, of 32 MB each."""

MANY_ROWS = 20
"""Pairs that one source image may well have."""

_OUTSIDE = "spans inside the answer"
_AT_ONCE = 2**20
"""Ids that are in memory as texts at a time."""


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


class Rows:
    """Some rows of some runs, in order: `rows[i]` reads one."""

    def __init__(self, index: Index, opened: OpenFiles, numbers: NDArray[Any]) -> None:
        """Made by `Rows.open`, `usable`, `split` and `select`."""
        self._index = index
        self._opened = opened
        self._numbers = numbers
        self._starts = np.cumsum([0, *(n for file in index.files for n in file.group_rows)])
        self._groups: OrderedDict[int, pa.Table] = OrderedDict()

    @classmethod
    def open(cls, runs: Sequence[str], *, split: str = "train", cache: Path | None = None) -> Rows:
        """All pairs of finished runs: local folders or URLs, in the order given.

        Nothing is copied but the index of large or distant runs, to `cache` (default: a folder of
        the user's). Raises UsageError for a folder without shards, another schema version, missing
        columns, damage, and a pair that is there twice.
        """
        index = open_index(runs, split, cache)
        return cls(index, OpenFiles(), np.arange(len(index.entries)))

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, number: int) -> Row:
        group, offset = self.place(number)
        (row,) = self._group(group).slice(offset, 1).to_pylist()
        return from_row(Row, row)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_groups": OrderedDict()}

    def place(self, number: int) -> tuple[int, int]:
        """The row group that holds a row, and the row's place in it."""
        place = self._numbers[number]
        group = int(np.searchsorted(self._starts, place, side="right")) - 1
        return group, int(place - self._starts[group])

    def read(self, group: int, offsets: Sequence[int]) -> list[Row]:
        """Some rows of a row group, which is read whole and not kept. For many threads."""
        table = self._read(group, schema_of(Row).names).take(pa.array(offsets, pa.int64()))
        return [from_row(Row, row) for row in table.to_pylist()]

    @property
    def blocks(self) -> NDArray[np.int64]:
        """How many rows are in the same row group, one number a group, in order."""
        groups = np.searchsorted(self._starts, self._numbers, side="right")
        ends = np.flatnonzero(np.diff(groups, append=-1)) + 1
        return np.diff(ends, prepend=0)

    @property
    def pair_ids(self) -> list[str]:
        """Ids by row number."""
        return self._texts("pair_id", self._numbers)

    def pair_id(self, number: int) -> str:
        """The id of one row."""
        (found,) = self._texts("pair_id", self._numbers[[number]])
        return found

    @property
    def images(self) -> list[str]:
        """Which source image a row is of: its file name, or the seed's id where it has none."""
        return self._texts("image", self._numbers)

    @cached_property
    def digest(self) -> str:
        """Content id of the rows in order; pair ids name content."""
        starts = range(0, len(self), _AT_ONCE)
        parts = (self._texts("pair_id", self._numbers[n : n + _AT_ONCE]) for n in starts)
        return content_id(*("\n".join(part) for part in parts))

    def entries(self, names: Sequence[str]) -> pa.Table:
        """Columns of the index (`Index.entries`) for these rows, in order."""
        return self._index.entries.select(list(names)).take(pa.array(self._numbers))

    def columns(self, names: Sequence[str]) -> pa.Table:
        """Columns of `Pair` for these rows, in order; not the images, which would not fit."""
        assert not set(names) & set(IMAGES), "images are read row by row"
        groups = np.searchsorted(self._starts, self._numbers, side="right") - 1
        read = np.unique(groups)
        tables = [self._read(int(group), names) for group in read]
        firsts = np.cumsum([0, *(len(table) for table in tables)])
        places = self._numbers - self._starts[groups] + firsts[np.searchsorted(read, groups)]
        kinds = pa.schema([schema_of(Pair).field(name) for name in names])
        return pa.concat_tables([kinds.empty_table(), *tables]).take(pa.array(places))

    def select(self, numbers: Iterable[int]) -> Rows:
        """The rows with these numbers, in that order."""
        chosen = np.asarray(numbers if isinstance(numbers, np.ndarray) else [*numbers], np.int64)
        return Rows(self._index, self._opened, self._numbers[chosen])

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
        folds = self.entries(["fold"])["fold"].to_pylist()
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
        for name in sorted(needs & set(SINCE)):
            if old := next((f for f in self._index.files if int(f.version) < SINCE[name]), None):
                raise UsageError(
                    f"{old.shown} has schema version {old.version}, and {what} needs {name}, which "
                    f"runs have from version {SINCE[name]} on; make the run again, or take a loss "
                    "that does not need it"
                )
        lacks = self.entries(["lacks"])["lacks"].to_numpy()
        spans = sorted(needs & set(SPANS))
        short = {name: lacking(lacks, name) for name in sorted(needs - set(spans))}
        if spans:
            short["spans"] = np.all([lacking(lacks, name) for name in spans], axis=0)
            short[_OUTSIDE] = np.any([lacking(lacks, f"{name} inside") for name in spans], axis=0)
        bad = np.any([*short.values(), np.zeros(len(self), bool)], axis=0)
        counts = {name: int(mask.sum()) for name, mask in short.items() if mask.any()}
        report = RowCounts(what, needs, len(self), len(self) - int(bad.sum()), counts)
        if not report.kept:
            raise UsageError(
                f"nothing to train on: {report}; use a recipe that fills these columns"
            )
        return self.select(np.flatnonzero(~bad)), report

    def _texts(self, column: str, numbers: NDArray[Any]) -> list[str]:
        found: list[str] = self._index.entries[column].take(pa.array(numbers)).to_pylist()
        return found

    def _group(self, number: int) -> pa.Table:
        if number in self._groups:
            self._groups.move_to_end(number)
            return self._groups[number]
        table = self._read(number, schema_of(Row).names)
        self._groups[number] = table
        while len(self._groups) > 1 and sum(t.nbytes for t in self._groups.values()) > CACHE_BYTES:
            self._groups.popitem(last=False)
        return table

    def _read(self, group: int, columns: Sequence[str]) -> pa.Table:
        file, inside = self._places[group]
        table = self._opened.read(self._index.files[file], inside, columns)
        return with_missing(table, columns).select(list(columns))

    @cached_property
    def _places(self) -> list[tuple[int, int]]:
        """File and number in it of every row group."""
        files = self._index.files
        return [(f, g) for f, file in enumerate(files) for g in range(len(file.group_rows))]


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
