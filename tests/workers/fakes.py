"""Small real stages for tests of the machinery: a whole chain that needs no pixels."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from schemas.ids import row_seed
from schemas.outcomes import Origin
from schemas.records import (
    Candidate,
    Contrast,
    Drop,
    Image,
    ImageRef,
    Kind,
    Reason,
    ScoredCandidate,
    Seed,
    SeedRef,
    SpannedCandidate,
    Verdict,
    VerifiedCandidate,
)
from stages.backends.weights.checkpoints import Checkpoint, locate
from stages.base import Device, GroupStage, RecordStage, ServiceDown, Stage
from workers.chain import AnyStage, Chain, Link


def ref(seed_id: str) -> SeedRef:
    """An input row with its image inline."""
    image = ImageRef(None, bytes=f"pixels of {seed_id}".encode())
    return SeedRef(seed_id, 0, image, "What?", f"A {seed_id}.", None, (), "test", None)


@dataclass(frozen=True)
class InlineLoader(RecordStage[SeedRef, Seed]):
    """Takes the inline bytes for an image."""

    consumes: ClassVar[type] = SeedRef
    produces: ClassVar[type] = Seed

    def process_one(self, record: SeedRef) -> Sequence[Seed] | Drop:
        assert record.image.bytes is not None
        return [
            Seed(
                record.seed_id, record.run_seed, Image(record.image.bytes), 4, 4, record.prompt,
                record.chosen, record.rejected, (), record.source, record.license,
            )
        ]  # fmt: skip


@dataclass(frozen=True)
class Saboteur(Stage[Seed, Seed]):
    """Passes seeds on; misbehaves on those that are named."""

    consumes: ClassVar[type] = Seed
    produces: ClassVar[type] = Seed

    raises: tuple[str, ...] = ()
    exits: tuple[str, ...] = ()
    hangs: tuple[str, ...] = ()
    drops: tuple[str, ...] = ()
    mended: str = ""
    """A file; once it is there, nothing raises, exits or hangs any more."""
    most_rows: int = 1000
    """Batches beyond this run out of memory."""
    sleep_s: float = 0.0
    waits: tuple[str, ...] = ()
    """Seeds that wait until the file `waits_for` is there."""
    waits_for: str = ""
    calls: list[list[str]] = field(default_factory=list, init=False, compare=False)
    """Seed ids of every call, for tests in this process."""

    def process(self, batch: Sequence[Seed]) -> Sequence[Sequence[Seed] | Drop]:
        self.calls.append([seed.seed_id for seed in batch])
        if len(batch) > self.most_rows:
            raise MemoryError(f"{len(batch)} rows do not fit")
        results: list[Sequence[Seed] | Drop] = []
        mended = bool(self.mended) and Path(self.mended).exists()
        for seed in batch:
            time.sleep(self.sleep_s)
            while seed.seed_id in self.waits and not Path(self.waits_for).exists():
                time.sleep(0.05)
            if mended:
                results.append([seed])
                continue
            if seed.seed_id in self.raises:
                raise RuntimeError(f"cannot do {seed.seed_id}")
            if seed.seed_id in self.exits:
                os._exit(1)
            if seed.seed_id in self.hangs:
                time.sleep(3600)
            drop = Drop(Reason.NO_REGION, "named") if seed.seed_id in self.drops else None
            results.append(drop or [seed])
        return results


@dataclass(frozen=True)
class Doomed(Stage[Seed, Seed]):
    """Cannot be opened, or cannot go on; no row is to blame."""

    consumes: ClassVar[type] = Seed
    produces: ClassVar[type] = Seed

    how: str = ""
    folder: str = ""
    """Where there is no model, and where a file `mended` puts an end to the trouble."""

    def open(self, device: Device) -> None:
        first = Path(self.folder, "first")
        match self.how:
            case "no model":
                locate(Checkpoint(f"{self.folder}/no-model"))
            case "no cuda":
                from stages.backends.weights.torch_device import place

                place(Device("cuda"))
            case "dies in opening":
                os._exit(3)
            case "opens once" if first.exists():
                locate(Checkpoint(f"{self.folder}/no-model"))
            case "opens once":
                first.touch()

    def process(self, batch: Sequence[Seed]) -> Sequence[Sequence[Seed] | Drop]:
        if self.how == "opens once":
            os._exit(1)
        if self.how == "service down" and not Path(self.folder, "mended").exists():
            raise ServiceDown("http://127.0.0.1:9/v1 gave no answer for 30 s")
        return [[seed] for seed in batch]


@dataclass(frozen=True)
class FanOut(RecordStage[Seed, Candidate]):
    """Several candidates of a seed, each with drawn content."""

    consumes: ClassVar[type] = Seed
    produces: ClassVar[type] = Candidate

    num: int = 3

    def process_one(self, record: Seed) -> Sequence[Candidate] | Drop:
        draw = row_seed(record.run_seed, record.seed_id, "fan_out")
        return [
            Candidate(
                record,
                Contrast(Kind.OBJECT, f"thing {i}", None, f"remove thing {i}"),
                (),
                record.image,
                Image(f"{draw} {i}".encode()),
                f"No thing {i}.",
                {"i": str(i)},
            )
            for i in range(self.num)
        ]


@dataclass(frozen=True)
class Scorer(RecordStage[Candidate, ScoredCandidate]):
    """A score from the content."""

    consumes: ClassVar[type] = Candidate
    produces: ClassVar[type] = ScoredCandidate

    def process_one(self, record: Candidate) -> Sequence[ScoredCandidate] | Drop:
        return [ScoredCandidate(record, {"detail": sum(record.rejected_image.bytes) % 97 / 97})]


@dataclass(frozen=True)
class Lowest(GroupStage[ScoredCandidate]):
    """Keeps the lowest score of a seed."""

    consumes: ClassVar[type] = ScoredCandidate
    produces: ClassVar[type] = ScoredCandidate

    fails_on: str = ""

    def select(self, group: Sequence[ScoredCandidate]) -> Sequence[ScoredCandidate | Drop]:
        assert len({record.candidate.seed.seed_id for record in group}) == 1
        if group[0].candidate.seed.seed_id == self.fails_on:
            raise RuntimeError("cannot choose")
        best = min(range(len(group)), key=lambda i: group[i].scores["detail"])
        return [r if i == best else Drop(Reason.NOT_SELECTED) for i, r in enumerate(group)]


@dataclass(frozen=True)
class Approver(RecordStage[ScoredCandidate, VerifiedCandidate]):
    """Accepts everything."""

    consumes: ClassVar[type] = ScoredCandidate
    produces: ClassVar[type] = VerifiedCandidate

    def process_one(self, record: ScoredCandidate) -> Sequence[VerifiedCandidate] | Drop:
        verdict = Verdict(accepted=True, verifier="approver", detail="")
        return [VerifiedCandidate(record.candidate, record.scores, verdict)]


@dataclass(frozen=True)
class NoSpans(RecordStage[VerifiedCandidate, SpannedCandidate]):
    """Marks nothing."""

    consumes: ClassVar[type] = VerifiedCandidate
    produces: ClassVar[type] = SpannedCandidate

    def process_one(self, record: VerifiedCandidate) -> Sequence[SpannedCandidate] | Drop:
        return [SpannedCandidate(record, (), ())]


def links(saboteur: Saboteur | None = None, *, fan_out: int = 3) -> tuple[Link, ...]:
    """The whole chain."""
    stages: dict[str, AnyStage] = {
        "loader": InlineLoader(),
        "saboteur": saboteur or Saboteur(),
        "fan_out": FanOut(fan_out),
        "scorer": Scorer(),
        "lowest": Lowest(),
        "approver": Approver(),
        "no_spans": NoSpans(),
    }
    return tuple(Link(name, stage) for name, stage in stages.items())


def chain(saboteur: Saboteur | None = None, *, name: str = "fake", fan_out: int = 3) -> Chain:
    """The whole chain, with where its rows come from."""
    return Chain(Origin(name, "digest", 0, "0", 1, ()), links(saboteur, fan_out=fan_out))
