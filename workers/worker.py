"""The worker that takes shards through one actor group: in a Ray actor or a plain process.

A group is the stages that share a device. The first group reads the shard's manifest, the last one
writes its part; in between, records travel as Arrow bytes with the outcomes so far.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import pyarrow as pa

from schemas.arrow import from_bytes, to_bytes
from schemas.files import Folder
from schemas.manifest import read_seeds
from schemas.outcomes import OUTCOME_SCHEMA, Outcome, outcome_table, seed_of
from schemas.records import SeedRef
from schemas.shards import write_part
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
    device: str
    """Device of every stage in the group: "cpu" or "cuda:0"."""
    micro_batch: int
    """Seeds in one pass through the group's stages."""
    time_limit_s: float
    """Limit for one call into a stage."""
    last: bool
    """Whether this group writes the parts."""


@dataclass(frozen=True)
class Assignment:
    """What all workers of a run share."""

    run: Folder
    """The run directory."""
    attempt: str
    """Identity of the driver process."""
    facts: Mapping[str, str]
    """Metadata for every part: recipe and input digests."""


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
        watchdog = Watchdog(group.time_limit_s, self._blame)
        self._runners = [ChainRunner(c, Counters(), guard=watchdog) for c in group.chains]
        try:
            for runner in self._runners:
                runner.open(group.device)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close all stages."""
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
                self._write(parcel)
        finally:
            # Whatever the error, this process is alive: nobody is to blame for a death.
            flight.close()
            self._flight = None

    def _fly(self, parcel: Parcel, flight: FlightLog) -> None:
        """Run the parcel's live records, micro-batch by micro-batch."""
        live: list[list[Any]] = [
            [] if runner.chain.links else parcel.live[i] for i, runner in enumerate(self._runners)
        ]
        for runner in self._runners:
            runner.counters = Counters()
        for seed_ids, batches in self._micro_batches(parcel, flight):
            flight.take_off(seed_ids)
            for i, (runner, batch) in enumerate(zip(self._runners, batches, strict=True)):
                if not batch:
                    continue
                records, outcomes = _without_quarantined(batch, runner, flight)
                passed, drops = runner.run(records)
                live[i] += passed
                if outcomes or drops:
                    parcel.done.append(outcome_table(outcomes + drops))
            self._report(parcel, len(seed_ids))
        for runner in self._runners:
            parcel.counters.add(runner.counters)
        parcel.live = live

    def _micro_batches(
        self, parcel: Parcel, flight: FlightLog
    ) -> Iterator[tuple[list[str], list[list[Any]]]]:
        """Seeds to fly together, with their live records per chain. Suspects fly alone."""
        by_seed = [
            {k: list(g) for k, g in groupby(records, key=lambda r: seed_of(r).seed_id)}
            if runner.chain.links
            else {}
            for runner, records in zip(self._runners, parcel.live, strict=True)
        ]
        seeds = [s for s in parcel.seed_ids if any(s in records for records in by_seed)]
        together: list[str] = []
        for seed in seeds:
            alone = seed in flight.suspects
            if together and (alone or len(together) == self._group.micro_batch):
                yield together, _pick(by_seed, together)
                together = []
            if alone:
                yield [seed], _pick(by_seed, [seed])
            else:
                together.append(seed)
        if together:
            yield together, _pick(by_seed, together)

    def _report(self, parcel: Parcel, num_seeds: int) -> None:
        if self._group.last:
            parcel.counters.num_seeds += num_seeds
        if self._on_progress is None:
            return
        so_far = Counters(num_seeds=parcel.counters.num_seeds)
        for runner in self._runners:
            so_far.add(runner.counters)
        self._on_progress(parcel.shard, self._group.index, so_far)

    def _write(self, parcel: Parcel) -> None:
        """Write the part: by seed, then by recipe, then in the order in which the rows came."""
        parcel.counters.num_seeds = len(parcel.seed_ids)
        for runner, records in zip(self._runners, parcel.live, strict=True):
            pairs = [Outcome(record, runner.chain.origin) for record in records]
            parcel.done.append(outcome_table(pairs))
        table = pa.concat_tables(parcel.done)
        seed_rank = {s: i for i, s in enumerate(parcel.seed_ids)}
        recipe_rank = {r.chain.origin.recipe: i for i, r in enumerate(self._runners)}
        keys = [
            (seed_rank[s], recipe_rank[r], i)
            for i, (s, r) in enumerate(
                zip(table["seed_id"].to_pylist(), table["recipe"].to_pylist(), strict=True)
            )
        ]
        ordered = table.take([i for _, _, i in sorted(keys)])
        facts = {
            **self._assignment.facts,
            "nearmiss_counters": json.dumps(parcel.counters.to_json()),
        }
        write_part(self._assignment.run, parcel.shard, ordered, facts)

    def _blame(self, cause: str) -> None:
        if self._flight is not None:
            self._flight.blame(cause)


def _pick(by_seed: list[dict[str, list[Any]]], seeds: list[str]) -> list[list[Any]]:
    return [[r for seed in seeds for r in records.get(seed, ())] for records in by_seed]


def _without_quarantined(
    records: list[Any], runner: ChainRunner, flight: FlightLog
) -> tuple[list[Any], list[Outcome]]:
    """The records that may run, and the outcomes of those whose seed struck out."""
    stage = runner.chain.links[0].name
    kept, outcomes = list[Any](), list[Outcome]()
    for record in records:
        drop = flight.quarantined(seed_of(record).seed_id)
        if drop is None:
            kept.append(record)
        else:
            outcomes.append(Outcome(record, runner.chain.origin, drop, stage))
    if outcomes:
        runner.counters.count(
            (runner.chain.origin.recipe, stage),
            num_in=len(outcomes),
            num_out=0,
            reasons=[o.drop.reason for o in outcomes if o.drop],
            busy_s=0.0,
        )
    return kept, outcomes
