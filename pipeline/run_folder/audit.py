"""What parts account for: read from one part, held against its seeds, summed over a run.

Knows one part at a time; which parts a run has is known to `RunFolder`.
"""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import UsageError
from pipeline.run_folder.info import RunInfo
from schemas.files import Folder
from schemas.outcomes import PAIR
from schemas.shards import part_name, read_part
from workers.counters import Counters

log = logging.getLogger(__name__)

DAMAGED = (OSError, pa.ArrowException, ValueError, KeyError)
"""What reading a damaged part raises; a store out of reach does, too: see `is_damaged`."""

NAMED_MISSING = 3
"""How many of a shard's missing seeds an audit names."""

_COLUMNS = ("seed_id", "recipe", "status", "reason", "pair_id")


@dataclass(frozen=True)
class PartSummary:
    """What an audit reads of a part: its narrow columns and its metadata."""

    rows: list[dict[str, str]]
    """Seed id, recipe, status, reason and pair id of every outcome."""
    metadata: dict[str, str]
    """The metadata of `RunInfo.part_metadata`, and the counters as JSON."""
    counters: Counters
    """What the stages counted."""

    @classmethod
    def read(cls, folder: Folder, shard: int) -> PartSummary | None:
        """The summary of a part; None if its content is damaged."""
        try:
            tables = read_part(folder, shard, _COLUMNS)
            rows = [row for table in tables for row in table.to_pylist()]
            with folder.open(part_name(shard)) as source:
                metadata = _decoded(pq.read_metadata(source))
            return cls(rows, metadata, _counters(metadata))
        except DAMAGED:
            if not is_damaged(folder, shard):
                raise
            return None

    def has_drop(self, reasons: AbstractSet[str]) -> bool:
        """Whether a row was dropped for one of these reasons."""
        return any(row["reason"] in reasons for row in self.rows)

    def missing_of(self, expected: list[str], info: RunInfo, name: str) -> list[str]:
        """Expected seeds without an outcome in some recipe; all if the part is of another shard.

        UsageError, naming the part by `name`, if another recipe made it.
        """
        digest = self.metadata.get("nearmiss_recipe_digest", "none")
        if digest != info.identity.recipe_digest:
            raise UsageError(
                f"{name} was made by recipe {digest}, this run has "
                f"{info.identity.recipe_digest}; remove the part or use another --output"
            )
        pair_ids = [row["pair_id"] for row in self.rows if row["status"] == PAIR]
        seen = {(row["seed_id"], row["recipe"]) for row in self.rows}
        if (
            len(set(pair_ids)) != len(pair_ids)
            or {seed for seed, _ in seen} - set(expected)
            or self.metadata.get("nearmiss_input_digest") != info.identity.input_digest
        ):
            return expected
        return [seed for seed in expected if any((seed, name) not in seen for name in info.recipes)]


def is_damaged(folder: Folder, shard: int) -> bool:
    """Whether any page of a part, images included, or its metadata is damaged.

    Raises what the storage raises: a store out of reach is no reason to remove a part.
    """
    data = folder.read(part_name(shard))
    try:
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        file.read(use_threads=False)  # as in `read_seeds`
        _counters(_decoded(file.metadata))
    except DAMAGED as error:
        log.warning("%s is damaged and has to be made again: %s", part_name(shard), error)
        return True
    return False


def _decoded(file: pq.FileMetaData) -> dict[str, str]:
    return {key.decode(): value.decode() for key, value in file.metadata.items()}


def _counters(metadata: dict[str, str]) -> Counters:
    return Counters.from_json(json.loads(metadata["nearmiss_counters"]))


@dataclass
class Audit:
    """What the parts of a run account for."""

    num_seeds: int = 0
    """Seeds with an outcome in every recipe."""
    num_pairs: int = 0
    """Accepted pairs."""
    num_drops: int = 0
    """Records dropped; several for a seed that fans out."""
    pairs: Counter[str] = field(default_factory=Counter)
    """Accepted pairs by recipe."""
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Drops by (recipe, reason)."""
    missing: dict[int, list[str]] = field(default_factory=dict)
    """Shards to make (again), each with the first few seeds that some recipe has no outcome for."""
    num_missing: int = 0
    """Seeds that some recipe has no outcome for."""
    counters: Counters = field(default_factory=Counters)
    """What the stages counted, summed over the parts."""

    @property
    def complete(self) -> bool:
        """Whether every seed is accounted for."""
        return not self.missing

    def add_part(self, part: PartSummary, num_seeds: int) -> None:
        """Count a part that accounts for all its seeds."""
        self.num_seeds += num_seeds
        self.counters.add(part.counters)
        for row in part.rows:
            if row["status"] == PAIR:
                self.num_pairs += 1
                self.pairs[row["recipe"]] += 1
            else:
                self.num_drops += 1
                self.reasons[row["recipe"], row["reason"]] += 1

    def add_missing(self, shard: int, num_seeds: int, seeds: list[str]) -> None:
        """Note a shard to make (again) and some of its missing seeds."""
        self.missing[shard] = seeds[:NAMED_MISSING]
        self.num_missing += num_seeds
