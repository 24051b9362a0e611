"""The worker that takes shards through one actor group: in a Ray actor or a plain process.

A group is the stages that share a device. The first group reads the shard's manifest, the last one
writes its part; in between, records travel as Arrow bytes with the outcomes so far.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import pyarrow as pa

from schemas.arrow import from_bytes, to_bytes
from schemas.files import Folder
from schemas.manifest import read_seeds
from schemas.outcomes import OUTCOME_SCHEMA, Outcome, outcome_table, seed_of
from schemas.records import SeedRef
from schemas.shards import ROW_GROUP_ROWS, write_part
from schemas.vectors import write_vectors
from stages.base import Device
from workers.ahead import Ahead
from workers.chain import Chain, ChainRunner
from workers.counters import Counters
from workers.guard import FlightLog, Watchdog

OnProgress = Callable[[int, int, Counters], None]
"""Told (shard, group, that shard's counters in that group) after every micro-batch."""


@dataclass(frozen=True)
class Group:
    """What one actor runs."""

    index: int
    """Position among the groups, from 0."""
    chains: tuple[Chain, ...]
    """Per recipe the links of this group; a recipe without any passes through untouched."""
    device: Device
    """Where every stage of the group runs."""
    micro_batch: int
    """Seeds in one pass through the group's stages."""
    time_limit_s: float
    """Limit for one call into a stage."""
    last: bool
    """Whether this group writes the parts."""
    decode_ahead: bool = False
    """Whether a thread decodes the images of the next micro-batch."""


@dataclass(frozen=True)
class Assignment:
    """What all workers of a run share."""

    run: Folder
    """The run directory."""
    attempt: str
    """Identity of the driver process."""
    facts: Mapping[str, str]
    """Metadata for every part: recipe and input digests."""
    vectors: bool = False
    """Whether the workers write the vectors of images, for a recipe that pairs them, not parts."""


@dataclass
class Parcel:
    """A shard on its way between groups."""

    shard: int
    """Shard number."""
    seed_ids: list[str]
    """All seeds of the shard, in manifest order."""
    live: list[list[Any]]
    """Per chain, the records still in the flow, in seed order."""
    done: list[pa.Table] = field(default_factory=list)
    """Outcomes so far, as tables of `OUTCOME_SCHEMA`."""
    counters: Counters = field(default_factory=Counters)
    """Counts of this shard so far."""

    def to_row(self, chains: Sequence[Chain]) -> dict[str, Any]:
        """As one row of plain values; `chains` are those of the group that the parcel leaves."""
        live = [_encoded(chain, records) for chain, records in zip(chains, self.live, strict=True)]
        sink = pa.BufferOutputStream()
        done = pa.concat_tables([OUTCOME_SCHEMA.empty_table(), *self.done])
        with pa.ipc.new_stream(sink, OUTCOME_SCHEMA) as writer:
            writer.write_table(done)
        return {
            "shard": self.shard,
            "seed_ids": self.seed_ids,
            "live": live,
            "done": sink.getvalue().to_pybytes(),
            "counters": json.dumps(self.counters.to_json()),
        }

    @classmethod
    def from_row(cls, row: Mapping[str, Any], chains: Sequence[Chain]) -> Parcel:
        """The parcel that `to_row` gave; `chains` are those of the group that receives it."""
        live = [
            from_bytes(data, chain.links[0].stage.consumes) if chain.links else data
            for chain, data in zip(chains, row["live"], strict=True)
        ]
        with pa.ipc.open_stream(row["done"]) as reader:
            done = [reader.read_all()]
        counters = Counters.from_json(json.loads(row["counters"]))
        return cls(row["shard"], row["seed_ids"], live, done, counters)


def _encoded(chain: Chain, records: Any) -> bytes:
    if chain.links:
        return to_bytes(records, chain.links[-1].stage.produces)
    # A chain with nothing to do in this group: as it came, or still the manifest's rows.
    return records if isinstance(records, bytes) else to_bytes(records, SeedRef)


class ShardWorker:
    """Takes shards through one group. Opens the stages once, when it is made."""

    def __init__(
        self, assignment: Assignment, group: Group, on_progress: OnProgress | None = None
    ) -> None:
        """Open all stages of the group on its device."""
        self._assignment = assignment
        self._group = group
        self._on_progress = on_progress
        self._flight: FlightLog | None = None
        self._ahead = Ahead(group.micro_batch) if group.decode_ahead else None
        watchdog = Watchdog(group.time_limit_s, self._blame)
        self._runners = [ChainRunner(c, Counters(), guard=watchdog) for c in group.chains]
        try:
            for runner in self._runners:
                runner.open(group.device)
        except BaseException:
            self.close()
            raise
        # Until when this worker's time is accounted for, as busy or as idle.
        self._accounted = monotonic()

    def close(self) -> None:
        """Close all stages."""
        if self._ahead is not None:
            self._ahead.close()
        for runner in self._runners:
            runner.close()

    def first(self, shard: int) -> Parcel:
        """The parcel of a shard, fresh from its manifest."""
        refs = read_seeds(self._assignment.run, shard)
        return Parcel(shard, [r.seed_id for r in refs], [list(refs) for _ in self._runners])

    def process(self, parcel: Parcel) -> None:
        """Take all live records of the parcel through the group; write the part in the last one."""
        flight = self._flight = FlightLog(
            self._assignment.run,
            f"{parcel.shard:05d}-{self._group.index}",
            self._assignment.attempt,
        )
        try:
            flight.recover()
            self._fly(parcel, flight)
            if self._group.last:
                self._finish(parcel)
        finally:
            # Whatever the error, this process is alive: nobody is to blame for a death.
            flight.close()
            self._flight = None

    def _fly(self, parcel: Parcel, flight: FlightLog) -> None:
        """Run the parcel's live records, micro-batch by micro-batch."""
        live: list[list[Any]] = [
            [] if runner.chain.links else parcel.live[i] for i, runner in enumerate(self._runners)
        ]
        by_seed = [
            _by_seed(records) if runner.chain.links else {}
            for runner, records in zip(self._runners, parcel.live, strict=True)
        ]
        for runner in self._runners:
            runner.counters = Counters()
        seeds = [s for s in parcel.seed_ids if any(s in records for records in by_seed)]
        size = self._group.micro_batch
        for start in range(0, len(seeds), size):
            together, coming = seeds[start : start + size], seeds[start + size : start + 2 * size]
            # Not where a process died: what dies in the other thread would be blamed on this one.
            if self._ahead is not None and not flight.suspicious:
                self._ahead.start(
                    [r for of in by_seed for seed in coming for r in of.get(seed, ())]
                )
            for i, runner in enumerate(self._runners):
                here = [s for s in together if s in by_seed[i]]
                for flown in _flights(here, runner.chain.origin.recipe, flight):
                    records = [record for seed in flown for record in by_seed[i][seed]]
                    passed, outcomes = _run(runner, flown, records, flight)
                    live[i] += passed
                    if outcomes:
                        parcel.done.append(outcome_table(outcomes))
            self._report(parcel, len(together))
        parcel.counters.add(self._counted())
        # What follows (the part's writing, the wait for another shard) is the next one's idle time.
        self._accounted = monotonic()
        parcel.live = live

    def _counted(self) -> Counters:
        """What this group's stages counted in this parcel, and the time that none of them took."""
        counted = Counters()
        for runner in self._runners:
            counted.add(runner.counters)
        busy_s = sum(stage.busy_s for stage in counted.stages.values())
        first = next(runner.chain for runner in self._runners if runner.chain.links)
        counted.wait(
            max(0.0, monotonic() - self._accounted - busy_s),
            (first.origin.recipe, first.links[0].name),
        )
        return counted

    def _report(self, parcel: Parcel, num_seeds: int) -> None:
        if self._group.last:
            parcel.counters.num_seeds += num_seeds
        if self._on_progress is None:
            return
        so_far = self._counted()
        so_far.num_seeds = parcel.counters.num_seeds
        self._on_progress(parcel.shard, self._group.index, so_far)

    def _finish(self, parcel: Parcel) -> None:
        """Write what the shard came to; the file's existence says that it is done."""
        if self._assignment.vectors:
            (rows,) = parcel.live
            write_vectors(self._assignment.run, parcel.shard, rows)
        else:
            self._write(parcel)

    def _write(self, parcel: Parcel) -> None:
        """Write the part: by seed, then by recipe, then in the order in which the rows came."""
        parcel.counters.num_seeds = len(parcel.seed_ids)
        for runner, records in zip(self._runners, parcel.live, strict=True):
            for start in range(0, len(records), ROW_GROUP_ROWS):
                pairs = records[start : start + ROW_GROUP_ROWS]
                origin = runner.chain.origin
                parcel.done.append(outcome_table([Outcome(record, origin) for record in pairs]))
        seed_rank = {s: i for i, s in enumerate(parcel.seed_ids)}
        recipe_rank = {r.chain.origin.recipe: i for i, r in enumerate(self._runners)}
        places = sorted(
            (seed_rank[seed], recipe_rank[recipe], table_index, row)
            for table_index, table in enumerate(parcel.done)
            for row, (seed, recipe) in enumerate(
                zip(table["seed_id"].to_pylist(), table["recipe"].to_pylist(), strict=True)
            )
        )
        # Row by row: a column of a whole shard may be larger than Arrow can hold in one piece.
        rows = (parcel.done[index].slice(row, 1) for _, _, index, row in places)
        facts = {
            **self._assignment.facts,
            "nearmiss_counters": json.dumps(parcel.counters.to_json()),
        }
        write_part(self._assignment.run, parcel.shard, rows, facts)

    def _blame(self, cause: str) -> None:
        if self._flight is not None:
            self._flight.blame(cause)


def _by_seed(records: Sequence[Any]) -> dict[str, list[Any]]:
    groups: dict[str, list[Any]] = {}
    for record in records:
        groups.setdefault(seed_of(record).seed_id, []).append(record)
    return groups


def _flights(seeds: list[str], recipe: str, flight: FlightLog) -> list[list[str]]:
    """The seeds of a micro-batch in the order given, suspects on flights of their own."""
    flights: list[list[str]] = []
    open_to_others = False
    for seed in seeds:
        alone = flight.flies_alone(recipe, seed)
        if open_to_others and not alone:
            flights[-1].append(seed)
        else:
            flights.append([seed])
        open_to_others = not alone
    return flights


def _run(
    runner: ChainRunner, seeds: list[str], records: list[Any], flight: FlightLog
) -> tuple[list[Any], list[Outcome]]:
    """Run the records of one flight; those of a seed that struck out are dropped instead."""
    origin = runner.chain.origin
    drop = flight.quarantined(origin.recipe, seeds[0]) if len(seeds) == 1 else None
    if drop is None:
        flight.take_off(origin.recipe, seeds)
        return runner.run(records)
    # Which of the group's stages it died in is not known, so it never entered the first.
    stage = runner.chain.links[0].name
    runner.counters.count(
        (origin.recipe, stage),
        num_in=len(records),
        num_out=0,
        reasons=[drop.reason] * len(records),
    )
    return [], [Outcome(record, origin, drop, stage) for record in records]
