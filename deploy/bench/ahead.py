"""What decoding one micro-batch ahead gains, where a stage only waits, as a GPU's driver does."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import ClassVar

from measure import header, quiet, scratch, spread

from pipeline.demo.scenes import write_scenes
from pipeline.engine.placement import GroupPlacement, Placement
from pipeline.engine.work import make_groups
from pipeline.recipes.build import load_recipe
from pipeline.recipes.chains import make_chains
from pipeline.sources import open_source, write_manifest
from schemas.files import Folder
from schemas.records import Drop, Seed
from stages.base import Stage
from stages.pixels import decode
from workers.chain import Chain, Link
from workers.worker import Assignment, Group, ShardState, ShardWorker

MICRO_BATCH = 8


@dataclass(frozen=True)
class Waiter(Stage[Seed, Seed]):
    """Looks at every image, then waits."""

    consumes: ClassVar[type] = Seed
    produces: ClassVar[type] = Seed

    wait_s: float = 0.0

    def process(self, batch: Sequence[Seed]) -> Sequence[Sequence[Seed] | Drop]:
        """See Stage."""
        for seed in batch:
            decode(seed.image)
        time.sleep(self.wait_s)
        return [[seed] for seed in batch]


def groups(wait_s: float, *, ahead: bool) -> list[Group]:
    """The loader, and the stage that waits."""
    (whole,) = make_chains(load_recipe("crop"), 0)
    links = (whole.links[0], Link("waiter", Waiter(wait_s)))
    specs = [
        GroupPlacement(stages=["loader"]),
        GroupPlacement(micro_batch=MICRO_BATCH, decode_ahead=ahead),
        # Never used: it writes the parts, so that the group before it only hands on.
        GroupPlacement(stages=["masker"]),
    ]
    chain = Chain(whole.origin, (*links, whole.links[-1]))
    return [group for group, _ in make_groups([chain], Placement(groups=specs))]


def ms_a_batch(run: Folder, wait_s: float, *, ahead: bool) -> float:
    """Milliseconds a micro-batch takes in the second group."""
    first, second, _ = groups(wait_s, ahead=ahead)
    loader = ShardWorker(Assignment(run, "bench", {}), first)
    state = loader.first(0)
    loader.process(state)
    state = ShardState.from_row(state.to_row(first.chains), second.chains)
    worker = ShardWorker(Assignment(run, "bench", {}), second)
    before = perf_counter()
    worker.process(state)
    seconds = perf_counter() - before
    worker.close()
    return 1000 * seconds * MICRO_BATCH / len(state.seed_ids)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=128)
    parser.add_argument("--side", type=int, default=1024)
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    quiet()
    print(header("Decoding one micro-batch ahead"))
    print(
        f"{args.seeds} JPEGs of {args.side} px, micro-batches of {MICRO_BATCH}, one process, a "
        f"stage that decodes and then waits. Median of {args.runs} runs (range), in turns.\n"
    )
    print("| the stage waits | ms a micro-batch, decoded when asked for | one ahead | gain |")
    print("|---|---|---|---|")
    with scratch() as folder:
        write_scenes(Path(folder) / "input", args.seeds, side=args.side)
        run = Folder.at(str(folder / "run"))
        source = open_source(str(folder / "input" / "seeds.jsonl"))
        write_manifest(source, run, 0, args.seeds, None)
        for wait_s in (0.03, 0.1, 0.3, 1.0):
            found: dict[bool, list[float]] = {False: [], True: []}
            for _ in range(args.runs):
                for ahead, values in found.items():
                    values.append(ms_a_batch(run, wait_s, ahead=ahead))
            plain, sooner = (sorted(v)[len(v) // 2] for v in found.values())
            print(
                f"| {1000 * wait_s:.0f} ms | {spread(found[False], 0)} | {spread(found[True], 0)} "
                f"| {plain / sooner:.2f}x |",
                flush=True,
            )


if __name__ == "__main__":
    main()
