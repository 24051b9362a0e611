"""The worker that takes shards through one actor group: in a Ray actor or a plain process.

A group is the stages that share a device. The first group reads the shard's manifest, the last one
writes its part; in between, records travel as Arrow bytes with the outcomes so far. Does not know
Ray, nor which engine calls it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import TypedDict, cast

import pyarrow as pa

from schemas.arrow import from_bytes, to_bytes
from schemas.files import Folder
from schemas.manifest import read_seeds
from schemas.outcomes import OUTCOME_SCHEMA, FlowRecord, Outcome, outcome_table, seed_of
from schemas.records import SeedRef
from schemas.shards import ROW_GROUP_ROWS, write_part
from schemas.vectors import Vectored, write_vectors
from stages.base import Device
from stages.pixels import DecodedImages
from workers.ahead import DecodeAhead
from workers.chain import Chain, ChainRunner
from workers.counters import Counters
from workers.guard import InFlightLog, Watchdog

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


class ShardRow(TypedDict):
    """`ShardState` as one row of plain values: what travels between two groups."""

    shard: int
    seed_ids: list[str]
    live: list[bytes]
    done: bytes
    counters: str


@dataclass
class ShardState:
    """A shard between two groups: what is still in the flow, and what has left it."""

    shard: int
    """Shard number."""
    seed_ids: list[str]
    """All seeds of the shard, in manifest order."""
    live: list[list[FlowRecord] | bytes]
    """Per chain, the records still in the flow, in seed order; still as Arrow bytes where the
    chain has no stage in the group."""
    done: list[pa.Table] = field(default_factory=list)
    """Outcomes so far, as tables of `OUTCOME_SCHEMA`."""
    counters: Counters = field(default_factory=Counters)
    """Counts of this shard so far."""

    def to_row(self, chains: Sequence[Chain]) -> ShardRow:
        """As one row of plain values; `chains` are those of the group it leaves."""
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
    def from_row(cls, row: ShardRow, chains: Sequence[Chain]) -> ShardState:
        """The state that `to_row` gave; `chains` are those of the group that receives it."""
        live: list[list[FlowRecord] | bytes] = [
            from_bytes(data, chain.links[0].stage.consumes) if chain.links else data
            for chain, data in zip(chains, row["live"], strict=True)
        ]
        with pa.ipc.open_stream(row["done"]) as reader:
            done = [reader.read_all()]
        counters = Counters.from_json(json.loads(row["counters"]))
        return cls(row["shard"], row["seed_ids"], live, done, counters)


def _encoded(chain: Chain, records: list[FlowRecord] | bytes) -> bytes:
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
        self._in_flight: InFlightLog | None = None
        self._ahead = DecodeAhead(group.micro_batch) if group.decode_ahead else None
        self._images = DecodedImages() if self._ahead is None else self._ahead.images
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

    def first(self, shard: int) -> ShardState:
        """The state of a shard at the start, read from its manifest."""
        refs = read_seeds(self._assignment.run, shard)
        return ShardState(shard, [r.seed_id for r in refs], [list(refs) for _ in self._runners])

    def process(self, state: ShardState) -> None:
        """Take all live records of a shard through the group; the last group writes the part."""
        in_flight = self._in_flight = InFlightLog(
            self._assignment.run,
            f"{state.shard:05d}-{self._group.index}",
            self._assignment.attempt,
        )
        try:
            in_flight.recover()
            with self._images.in_use():
                self._run_micro_batches(state, in_flight)
            if self._group.last:
                self._finish(state)
        finally:
            # Whatever the error, this process is alive: nobody is to blame for a death.
            in_flight.close()
            self._in_flight = None

    def _run_micro_batches(self, state: ShardState, in_flight: InFlightLog) -> None:
        """Run the live records, micro-batch by micro-batch."""
        passed: list[list[FlowRecord]] = [[] for _ in self._runners]
        by_seed = [
            _by_seed(_decoded(records)) if runner.chain.links else {}
            for runner, records in zip(self._runners, state.live, strict=True)
        ]
        for runner in self._runners:
            runner.counters = Counters()
        seeds = [s for s in state.seed_ids if any(s in records for records in by_seed)]
        size = self._group.micro_batch
        for start in range(0, len(seeds), size):
            together, coming = seeds[start : start + size], seeds[start + size : start + 2 * size]
            # Not where a process died: what dies in the other thread would be blamed on this one.
            if self._ahead is not None and not in_flight.has_suspects:
                self._ahead.start(
                    [r for of in by_seed for seed in coming for r in of.get(seed, ())]
                )
            for i, runner in enumerate(self._runners):
                here = [s for s in together if s in by_seed[i]]
                for batch in _split_suspects(here, runner.chain.origin.recipe, in_flight):
                    records = [record for seed in batch for record in by_seed[i][seed]]
                    came_through, outcomes = _run(runner, batch, records, in_flight)
                    passed[i] += came_through
                    if outcomes:
                        state.done.append(outcome_table(outcomes))
            self._report(state, len(together))
        state.counters.add(self._counted())
        # What follows (the part's writing, the wait for another shard) is the next one's idle time.
        self._accounted = monotonic()
        state.live = [
            records if runner.chain.links else untouched
            for runner, records, untouched in zip(self._runners, passed, state.live, strict=True)
        ]

    def _counted(self) -> Counters:
        """What this group's stages counted in this shard, and the time that none of them took."""
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

    def _report(self, state: ShardState, num_seeds: int) -> None:
        if self._group.last:
            state.counters.num_seeds += num_seeds
        if self._on_progress is None:
            return
        so_far = self._counted()
        so_far.num_seeds = state.counters.num_seeds
        self._on_progress(state.shard, self._group.index, so_far)

    def _finish(self, state: ShardState) -> None:
        """Write what the shard came to; the file's existence says that it is done."""
        if self._assignment.vectors:
            (rows,) = state.live
            # The one chain whose last records are not on their way to a pair.
            write_vectors(self._assignment.run, state.shard, cast("list[Vectored]", rows))
        else:
            self._write(state)

    def _write(self, state: ShardState) -> None:
        """Write the part: by seed, then by recipe, then in the order in which the rows came."""
        state.counters.num_seeds = len(state.seed_ids)
        for runner, live in zip(self._runners, state.live, strict=True):
            records = _decoded(live)
            for start in range(0, len(records), ROW_GROUP_ROWS):
                pairs = records[start : start + ROW_GROUP_ROWS]
                origin = runner.chain.origin
                state.done.append(outcome_table([Outcome(record, origin) for record in pairs]))
        seed_rank = {s: i for i, s in enumerate(state.seed_ids)}
        recipe_rank = {r.chain.origin.recipe: i for i, r in enumerate(self._runners)}
        places = sorted(
            (seed_rank[seed], recipe_rank[recipe], table_index, row)
            for table_index, table in enumerate(state.done)
            for row, (seed, recipe) in enumerate(
                zip(table["seed_id"].to_pylist(), table["recipe"].to_pylist(), strict=True)
            )
        )
        # Row by row: a column of a whole shard may be larger than Arrow can hold in one piece.
        rows = (state.done[index].slice(row, 1) for _, _, index, row in places)
        facts = {
            **self._assignment.facts,
            "nearmiss_counters": json.dumps(state.counters.to_json()),
        }
        write_part(self._assignment.run, state.shard, rows, facts)

    def _blame(self, cause: str) -> None:
        if self._in_flight is not None:
            self._in_flight.blame(cause)


def _decoded(records: list[FlowRecord] | bytes) -> list[FlowRecord]:
    """The records of a chain that has stages in this group; `from_row` decoded them."""
    assert not isinstance(records, bytes)
    return records


def _by_seed(records: Sequence[FlowRecord]) -> dict[str, list[FlowRecord]]:
    groups: dict[str, list[FlowRecord]] = {}
    for record in records:
        groups.setdefault(seed_of(record).seed_id, []).append(record)
    return groups


def _split_suspects(seeds: list[str], recipe: str, in_flight: InFlightLog) -> list[list[str]]:
    """The seeds of a micro-batch in the order given; each suspect is a batch of its own."""
    batches: list[list[str]] = []
    open_to_others = False
    for seed in seeds:
        alone = in_flight.runs_alone(recipe, seed)
        if open_to_others and not alone:
            batches[-1].append(seed)
        else:
            batches.append([seed])
        open_to_others = not alone
    return batches


def _run(
    runner: ChainRunner, seeds: list[str], records: list[FlowRecord], in_flight: InFlightLog
) -> tuple[list[FlowRecord], list[Outcome]]:
    """Run the records of one batch; those of a seed that struck out are dropped instead."""
    origin = runner.chain.origin
    drop = in_flight.quarantined(origin.recipe, seeds[0]) if len(seeds) == 1 else None
    if drop is None:
        in_flight.start(origin.recipe, seeds)
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
