"""What the engine costs per row of 100 KB when the stages do nothing."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import ClassVar

from measure import header, quiet, scratch, spread, timed

from pipeline.engine.placement import GroupPlacement, Placement
from pipeline.engine.work import Work
from schemas.files import Folder
from schemas.ids import row_seed
from schemas.manifest import write_seeds
from schemas.outcomes import Origin
from schemas.records import Drop, Image, ImageRef, Seed, SeedRef
from stages.base import RecordStage
from workers.chain import Chain, Link
from workers.worker import Assignment

ROW_BYTES = 100_000
SHARD_SIZE = 128


@dataclass(frozen=True)
class Take(RecordStage[SeedRef, Seed]):
    """The row with its inline bytes as image; nothing is decoded."""

    consumes: ClassVar[type] = SeedRef
    produces: ClassVar[type] = Seed

    def process_one(self, record: SeedRef) -> Sequence[Seed] | Drop:
        """See Stage."""
        assert record.image.bytes is not None
        return [
            Seed(record.seed_id, 0, Image(record.image.bytes), 1, 1, "", "", None, (), "", None)
        ]


@dataclass(frozen=True)
class Nothing(RecordStage[Seed, Seed]):
    """Passes the row on."""

    consumes: ClassVar[type] = Seed
    produces: ClassVar[type] = Seed

    def process_one(self, record: Seed) -> Sequence[Seed] | Drop:
        """See Stage."""
        return [record]


def noise(i: int) -> bytes:
    """An image's worth of bytes, different for every row."""
    return row_seed(0, str(i), "bench").to_bytes(8) * (ROW_BYTES // 8)


def chain(stages: int) -> Chain:
    """One stage that takes the row, and some that do nothing."""
    links = [Link("take", Take()), *(Link(f"nothing-{i}", Nothing()) for i in range(stages))]
    return Chain(Origin("nothing", "", 0, "", 1, ()), tuple(links))


def placement(groups: int, stages: int) -> Placement:
    """All stages in one actor, or dealt out to several groups of one actor each."""
    cut = [list(range(i * stages // groups, (i + 1) * stages // groups)) for i in range(groups)]
    specs = [
        GroupPlacement(
            stages="rest" if not i else [f"nothing-{j}" for j in part],
            num_cpus=1 / groups,
            max_actors=1,
            micro_batch=32,
        )
        for i, part in enumerate(cut)
    ]
    return Placement(name="bench", groups=specs)


def plain_ms(rows: Sequence[SeedRef], stages: int) -> float:
    """Milliseconds a row for a bare loop over the same stages, nothing read or written."""
    links = chain(stages).links
    before = perf_counter()
    for start in range(0, len(rows), 32):
        records: Sequence[object] = rows[start : start + 32]
        for link in links:
            records = [x for result in link.stage.process(records) for x in result]  # type: ignore[union-attr, misc]
    return 1000 * (perf_counter() - before) / len(rows)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--shards", type=int, default=24)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--stages", type=int, default=6)
    args = parser.parse_args()
    quiet()
    print(header("Engine overhead per row"))
    print(
        f"{args.shards * SHARD_SIZE:,} rows of {ROW_BYTES // 1000} KB in shards of {SHARD_SIZE}, "
        f"{args.stages} stages that do nothing, micro-batches of 32. Milliseconds a row between "
        "the first and the last shard, reading the manifest and writing the part (fsync) "
        f"included; median of {args.runs} runs (range). The plain loop reads and writes nothing.\n"
    )
    print("| engine | ms a row |")
    print("|---|---|")
    rows = [
        SeedRef(
            f"s{i}", 0, ImageRef(None, bytes=noise(i)),
            "", "", None, (), "", None,
        )
        for i in range(args.shards * SHARD_SIZE)
    ]  # fmt: skip
    plain = [plain_ms(rows, args.stages) for _ in range(args.runs)]
    print(f"| plain loop | {spread(plain, 3)} |", flush=True)
    cases = {
        "one process": (True, 1),
        "Ray, one group": (False, 1),
        "Ray, three groups": (False, 3),
    }
    for name, (local, groups) in cases.items():
        values = []
        for _ in range(args.runs):
            with scratch() as folder:
                run = Folder.at(str(folder))
                for shard in range(args.shards):
                    write_seeds(run, shard, rows[shard * SHARD_SIZE : (shard + 1) * SHARD_SIZE])
                work = Work(
                    Assignment(run, "bench", {}),
                    (chain(args.stages),),
                    placement(groups, args.stages),
                    range(args.shards),
                )
                values.append(1000 / timed(work, local=local).seeds_per_s())
        print(f"| {name} | {spread(values, 2)} |", flush=True)


if __name__ == "__main__":
    main()
