"""Reads the parts of a run in two ways: a few columns of all rows, and all columns of a few."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.files import Folder
from schemas.shards import part_name, read_part

_PART = re.compile(r"part-(\d+)\.parquet")
_NARROW = (
    "status",
    "reason",
    "stage",
    "pair_id",
    "seed_id",
    "recipe",
    "contrast.kind",
    "scores",
)


class Address(NamedTuple):
    """Where a row is."""

    shard: int
    """Number of its part."""
    row: int
    """Row of the part, counted from 0."""


class Line(NamedTuple):
    """All of a row but its texts and images."""

    at: Address
    status: str
    reason: str
    """Empty for a pair."""
    stage: str
    pair_id: str
    """Empty for a row that left before it had two images."""
    seed_id: str
    recipe: str
    kind: str
    """Contrast kind; empty for a row that left before it had one."""
    scores: dict[str, float]
    """Finite scores by name."""


def shards_of(run: Folder) -> list[int]:
    """Numbers of the parts that exist; ValueError if this is not a run directory."""
    if not run.exists("parts") and not run.exists("run.json"):
        raise ValueError(f"{run.url} is not a run directory: it has neither run.json nor parts/")
    matches = (_PART.fullmatch(name) for name in run.names("parts"))
    return sorted(int(match[1]) for match in matches if match)


def lines(run: Folder, shards: Sequence[int]) -> Iterator[Line]:
    """Every row of these parts, in order, without reading an image.

    ValueError names a part that cannot be read.
    """
    for shard in shards:
        at = 0
        for table in _reading(run, shard):
            for row in table.to_pylist():
                yield _line(Address(shard, at), row)
                at += 1


def _reading(run: Folder, shard: int) -> Iterator[pa.Table]:
    try:
        yield from read_part(run, shard, _NARROW)
    except (OSError, pa.ArrowException, KeyError) as error:
        raise _unreadable(run, shard, error) from error


def _unreadable(run: Folder, shard: int, error: BaseException) -> ValueError:
    cause = str(error).splitlines()[0] if str(error) else type(error).__name__
    return ValueError(
        f"{run.join(part_name(shard))} cannot be read ({cause}); delete it and run again"
    )


def _line(at: Address, row: dict[str, Any]) -> Line:
    scores = {s["name"]: s["value"] for s in row["scores"] or ()}
    return Line(
        at,
        row["status"] or "",
        row["reason"] or "",
        row["stage"] or "",
        row["pair_id"] or "",
        row["seed_id"] or "",
        row["recipe"] or "",
        (row["contrast"] or {}).get("kind") or "",
        {k: v for k, v in scores.items() if v is not None and math.isfinite(v)},
    )


def rows(run: Folder, wanted: Collection[Address]) -> Iterator[tuple[Address, dict[str, Any]]]:
    """The wanted rows with all columns, in the order of their addresses.

    One row group is in memory at a time, and only those that hold a wanted row are read.
    """
    by_shard: dict[int, list[int]] = {}
    for shard, row in sorted(wanted):
        by_shard.setdefault(shard, []).append(row)
    for shard, indices in by_shard.items():
        try:
            with run.open(part_name(shard)) as source:
                yield from _rows(pq.ParquetFile(source), shard, indices)
        except (OSError, pa.ArrowException) as error:
            raise _unreadable(run, shard, error) from error


def _rows(
    file: pq.ParquetFile, shard: int, indices: list[int]
) -> Iterator[tuple[Address, dict[str, Any]]]:
    start = 0
    for group in range(file.num_row_groups):
        end = start + file.metadata.row_group(group).num_rows
        inside = [i for i in indices if start <= i < end]
        if inside:
            table = file.read_row_group(group)
            for index in inside:
                yield Address(shard, index), table.slice(index - start, 1).to_pylist()[0]
        start = end
