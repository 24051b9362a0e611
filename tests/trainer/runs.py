"""Runs of the pipeline for the trainer's tests: real recipes over generated scenes."""

from __future__ import annotations

from pathlib import Path

from pipeline.demo.scenes import write_scenes
from pipeline.engine.placement import GroupPlacement, Placement
from pipeline.recipes.build import load_recipe
from pipeline.run import Request, run
from pipeline.sources import open_source


def make_run(folder: Path, recipe: str, num: int, side: int = 96) -> Path:
    """A finished run of a recipe over `num` scenes; returns its folder."""
    write_scenes(folder / "scenes", num, side=side)
    return run_over(folder / "scenes" / "seeds.jsonl", recipe, folder / "run")


def run_over(seeds: Path, recipe: str, output: Path) -> Path:
    """A finished run of a recipe over a file of seeds; returns its folder."""
    request = Request(
        book=load_recipe(recipe),
        placement=Placement(name="test", groups=[GroupPlacement()]),
        source=open_source(str(seeds)),
        output=str(output),
        local=True,
    )
    assert run(request) == 0
    return output
