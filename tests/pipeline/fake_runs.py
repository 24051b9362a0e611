"""Small runs as real parts, for the tests of what reads them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image

from pipeline.report import RunFacts
from schemas.files import Folder
from schemas.geometry import Box, Mask
from schemas.outcomes import Origin, Outcome, outcome_table
from schemas.records import (
    SCHEMA_VERSION,
    Candidate,
    Contrast,
    Drop,
    Image,
    ImageRef,
    Kind,
    Reason,
    Region,
    ScoredCandidate,
    Seed,
    SeedRef,
    Span,
    SpannedCandidate,
    Step,
    Verdict,
    VerifiedCandidate,
)
from schemas.shards import write_part
from stages.pixels import encode_jpeg

FACTS = RunFacts(
    recipe="mix",
    recipe_digest="d" * 32,
    seed=7,
    num_seeds=0,
    thresholds={"removal": {"object": {"appearance": ("min", 0.5), "detail": ("max", 0.9)}}},
    versions={"nearmiss": "0.1.0"},
)


def origin(recipe: str) -> Origin:
    steps = (Step("loader", '{"max_side":1024}'), Step("filter", "{}"))
    return Origin(recipe, "d" * 32, 7, "0.1.0", SCHEMA_VERSION, steps)


def image(key: int, width: int = 60, height: int = 40) -> Image:
    """A smooth image that differs with `key`."""
    rng = np.random.default_rng(key)
    small = PIL.Image.fromarray(rng.integers(0, 256, (3, 4, 3), dtype=np.uint8))
    return encode_jpeg(np.asarray(small.resize((width, height), PIL.Image.Resampling.BICUBIC)))


def seed(name: str, key: int = 0, **changes: object) -> Seed:
    made = Seed(
        seed_id=name,
        run_seed=7,
        image=image(key),
        width=60,
        height=40,
        prompt="What stands there?",
        chosen="A red stool stands there.",
        rejected="A green lamp stands there.",
        regions=(),
        source=f"rows.jsonl:{key + 1}",
        license="CC0",
    )
    return replace(made, **changes)


def candidate(name: str, key: int = 0, **changes: object) -> Candidate:
    mask = np.zeros((40, 60), dtype=bool)
    mask[10:30, 20:50] = True
    origin_seed = seed(name, key, **changes)
    return Candidate(
        seed=origin_seed,
        contrast=Contrast(Kind.OBJECT, "red stool", "blue stool", "make the red stool blue"),
        regions=(Region("red stool", Box(20, 10, 50, 30), Mask.from_array(mask)),),
        chosen_image=origin_seed.image,
        rejected_image=image(key + 10_000),
        counterfactual="A blue stool stands there.",
        params={"color": "blue"},
    )


def pair(name: str, key: int = 0, *, recipe: str = "removal", **changes: object) -> Outcome:
    """A pair; `appearance` and `detail` are its scores, other changes are of its seed."""
    scores = {k: float(changes.pop(k, v)) for k, v in (("appearance", 0.7), ("detail", 0.6))}
    verified = VerifiedCandidate(
        candidate(name, key, **changes), scores, Verdict(True, "locality", "inside 12, outside 0.1")
    )
    return Outcome(SpannedCandidate(verified, (Span(2, 5),), (Span(2, 6),)), origin(recipe))


def scored_drop(name: str, key: int, appearance: float) -> Outcome:
    return Outcome(
        ScoredCandidate(candidate(name, key), {"appearance": appearance, "detail": 0.6}),
        origin("removal"),
        Drop(Reason.TOO_DIFFERENT, f"appearance {appearance:g} below 0.5"),
        "filter",
    )


def seed_drop(name: str, key: int = 0) -> Outcome:
    detail = "0 regions, at least 1 is needed"
    return Outcome(seed(name, key), origin("flip"), Drop(Reason.NO_REGION, detail), "grounder")


def ref_drop(name: str, *, detail: str = "gone.jpg does not exist") -> Outcome:
    ref = SeedRef(
        name, 7, ImageRef("gone.jpg"), "What?", "A stool.", None, (), "rows.jsonl:9", None
    )
    return Outcome(ref, origin("removal"), Drop(Reason.IMAGE_NOT_FOUND, detail), "loader")


def write_run(folder: Path, *shards: list[Outcome]) -> str:
    run = Folder.at(str(folder))
    for number, outcomes in enumerate(shards):
        write_part(run, number, [outcome_table(outcomes)], {})
    run.write_json("run.json", {})
    return run.url


def mixed_run(folder: Path) -> tuple[str, RunFacts]:
    first = [pair(f"a{i}", i, appearance=0.55 + i / 50) for i in range(8)]
    second = [scored_drop(f"b{i}", 20 + i, 0.1 + i / 20) for i in range(5)]
    third = [seed_drop(f"c{i}", 40 + i) for i in range(3)] + [ref_drop("d0"), ref_drop("d1")]
    # One seed that gave a pair and a drop.
    third += [pair("e0", 60, recipe="flip"), seed_drop("e0", 60)]
    return write_run(folder, first, second, third), replace(FACTS, num_seeds=19)
