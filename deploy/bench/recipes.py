"""Seeds/s of every CPU recipe: one plain process against Ray with 1 and 2 actors."""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from measure import Clock, header, quiet, scratch, spread, timed

from pipeline.demo.scenes import write_scenes
from pipeline.engine.placement import GroupPlacement, Placement
from pipeline.engine.work import Work
from pipeline.recipes.build import load_recipe
from pipeline.recipes.chains import make_chains
from pipeline.sources import open_source, write_manifest
from schemas.files import Folder
from workers.worker import Assignment

ENGINES = {"one process": (True, 1), "Ray, 1 actor": (False, 1), "Ray, 2 actors": (False, 2)}


def one_run(recipe: str, seeds: Path, folder: Path, engine: str, shard_size: int) -> Clock:
    """One timed run of a recipe; its parts are thrown away."""
    local, actors = ENGINES[engine]
    book = load_recipe(recipe, [f"shard_size={shard_size}"])
    run = Folder.at(str(folder / f"{recipe}-{engine}"))
    manifest = write_manifest(open_source(str(seeds)), run, 0, shard_size)
    group = GroupPlacement(min_actors=actors, max_actors=actors)
    work = Work(
        Assignment(run, "bench", {}),
        make_chains(book, 0),
        Placement(name="bench", groups=[group]),
        range(manifest.num_shards),
    )
    return timed(work, local=local)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=2000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--shard-size", type=int, default=32)
    parser.add_argument(
        "--recipes", nargs="+", default=["removal-cpu", "recolor-cpu", "count-cpu", "flip", "crop"]
    )
    args = parser.parse_args()
    quiet()
    print(header("Seeds/s of the CPU recipes"))
    print(
        f"{args.seeds:,} synthetic scenes of {args.side} px, shards of {args.shard_size}; seeds/s "
        f"after the first shard of every actor, median of {args.runs} run(s) (range); the ratio is "
        "to one process in the same run.\n"
    )
    print("| recipe | engine | seeds/s | ratio | first shard after (s) |")
    print("|---|---|---|---|---|")
    for recipe in args.recipes:
        rates: dict[str, list[float]] = {engine: [] for engine in ENGINES}
        starts: dict[str, list[float]] = {engine: [] for engine in ENGINES}
        for _ in range(args.runs):
            with scratch() as folder:
                seeds = write_scenes(folder / "in", args.seeds, side=args.side)
                for engine, (_, actors) in ENGINES.items():
                    clock = one_run(recipe, seeds, folder, engine, args.shard_size)
                    rates[engine].append(clock.seeds_per_s(actors))
                    starts[engine].append(clock.start_up_s)
        plain = rates["one process"]
        for engine, values in rates.items():
            ratios = [a / b for a, b in zip(values, plain, strict=True)]
            print(
                f"| {recipe} | {engine} | {spread(values)} | {statistics.median(ratios):.2f} | "
                f"{spread(starts[engine])} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
