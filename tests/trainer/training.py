"""Runs of the pipeline for the trainer to read, and short trainings on a CPU."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import PIL.Image

from schemas.arrow import to_table
from schemas.files import Folder
from schemas.geometry import Box
from schemas.records import (
    SCHEMA_VERSION,
    Contrast,
    Image,
    Kind,
    Pair,
    Provenance,
    Region,
    Span,
    Verdict,
)
from schemas.shards import DATA_SCHEMA, DataWriter
from trainer.loop import StepResult
from trainer.settings import Settings, Source, load_settings
from trainer.stop import Wish
from trainer.train import Request

SIDE = 32
COLORS = {"red": (220, 40, 40), "blue": (40, 60, 220), "green": (40, 180, 60)}
THINGS = ("ring", "circle", "star")


def picture(color: tuple[int, int, int], number: int) -> Image:
    """A square of a colour somewhere on noise; PNG."""
    generator = np.random.Generator(np.random.PCG64(number))
    array = generator.integers(0, 60, (SIDE, SIDE, 3), dtype=np.uint8)
    x, y = generator.integers(2, SIDE // 2, 2)
    array[y : y + 12, x : x + 12] = color
    buffer = io.BytesIO()
    PIL.Image.fromarray(array).save(buffer, "PNG")
    return Image(buffer.getvalue(), f"scene-{number // 2}.png")


def pair(number: int, **more) -> Pair:
    """A pair in which one colour became another; two pairs share a source image's name."""
    names = list(COLORS)
    old, new = names[number % 3], names[(number + 1) % 3]
    thing = THINGS[number % len(THINGS)]
    chosen = f"The {thing} is {old}."
    counterfactual = f"The {thing} is {new}."
    fields = {
        "pair_id": f"pair-{number:03d}",
        "seed_id": f"seed-{number:03d}",
        "chosen_image": picture(COLORS[old], number),
        "rejected_image": picture(COLORS[new], number),
        "prompt": f"What colour is the {thing}?",
        "chosen": chosen,
        "rejected": "There are two.",
        "counterfactual": counterfactual,
        "chosen_spans": (Span(len(chosen) - 1 - len(old), len(chosen) - 1),),
        "counterfactual_spans": (
            Span(len(counterfactual) - 1 - len(new), len(counterfactual) - 1),
        ),
        "recipe": "recolor-cpu",
        "contrast": Contrast(Kind.ATTRIBUTE, f"{old} {thing}", f"{new} {thing}", "recolour"),
        "regions": (Region(f"{old} {thing}", Box(2, 2, 14, 14)),),
        "scores": {},
        "verdict": Verdict(accepted=True, verifier="locality", detail=""),
        "provenance": Provenance("digest", 0, SCHEMA_VERSION, "test", (), {}),
        "source": "test",
        "license": None,
    }
    return Pair(**fields | more)


def save_run(folder: Path, pairs: list[Pair]) -> str:
    """A finished run of the pipeline, as far as the trainer reads one."""
    writer = DataWriter(Folder.at(str(folder)), "test")
    writer.add(to_table(pairs, Pair).cast(DATA_SCHEMA))
    writer.finish()
    return str(folder)


SMALL = (
    "weights=float32",
    "compute=float32",
    "machine.device=cpu",
    "machine.loader_workers=0",
    "machine.micro_batch=2",
    "batch_size=3",
    "keep.checkpoint_every=2",
    "optimizer.learning_rate=1e-2",
)


def settings(preset: str = "dpo", *overrides: str) -> Settings:
    """A preset, made small."""
    own = () if preset in ("svco", "symmpo", "adavip") else ("tune.rank=4", "tune.alpha=8")
    return load_settings(Source(preset, overrides=[*SMALL, *own, *overrides]))


def request(run: str, model: Path, out: Path, wanted: Settings, **more) -> Request:
    return Request((run,), str(model), wanted, out, **more)


@dataclass
class Watch:
    """A monitor that remembers, and can act when a step is done."""

    act: object = None
    begun: list[int] = field(default_factory=list)
    results: dict[int, StepResult] = field(default_factory=dict)
    saves: list[str] = field(default_factory=list)

    def begin(self, step, num_steps):
        self.begun.append(step)

    def step(self, step, result):
        self.results[step] = result
        if self.act is not None:
            self.act(step)

    def saved(self, folder):
        self.saves.append(folder.name)


def stop_after(step: int):
    """A wish to stop once so many steps were begun in this attempt."""
    asked = []

    def wished():
        asked.append(1)
        return Wish.STOP if len(asked) == step else Wish.GO_ON

    return wished
