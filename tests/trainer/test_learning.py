"""A model that leans on its habits learns to look, from pairs of our own recipes.

The short form of `deploy/bench/learning.py`: one kind of question, one seed, a smaller model.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path

import pytest
from transformers import LlavaForConditionalGeneration

from fakes.habits import (
    RECIPES,
    Asked,
    Lesson,
    Reader,
    Size,
    answered,
    asked,
    lessons,
    new_checkpoint,
    teach,
    teach_tower,
    write_seeds,
)
from tests.trainer.runs import run_over
from tests.trainer.training import Watch, settings
from trainer.data.rows import Rows
from trainer.evaluate.judges import judge_of
from trainer.evaluate.probe import ProbeLine
from trainer.evaluate.run import Judge, evaluate
from trainer.families import Family, load_family
from trainer.run.train import Request, train

pytestmark = pytest.mark.slow

KIND, HABIT = "color", 0.8


def scenes(seed: int, num: int, habit: float) -> list[Asked]:
    return [asked(seed, number, habit, KIND) for number in range(num)]


@dataclass(frozen=True)
class World:
    """A model with habits, and near misses to teach it with and to ask it about."""

    base: Path
    family: Family
    taught: str
    probed: str


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    seen = scenes(1, 1500, HABIT)
    # One image at a time: the second image is a lesson that takes longer.
    rows = [row for row in lessons(seen, 0) if len(row.images) == 1]
    family = new_checkpoint(folder / "base", Size(64, 2, 2), [_text(row) for row in rows], 0)
    model = LlavaForConditionalGeneration.from_pretrained(folder / "base")
    teach_tower(model.model.vision_tower, 250, 0, 2000)
    teach(model, Reader(family, seen), rows, 200, 0)
    model.save_pretrained(folder / "base")
    runs = []
    for name, seed, num in (("taught", 7, 128), ("probed", 8, 48)):
        seeds = write_seeds(folder / name, scenes(seed, num, HABIT))
        runs.append(str(run_over(seeds, RECIPES[KIND], folder / name / "run")))
    return World(folder / "base", family, runs[0], runs[1])


def _text(row: Lesson) -> str:
    return f"{row.prompt} {row.answer}"


def judged(model: str | Path) -> Judge:
    return judge_of(model, None, device="cpu", weights="float32", micro_batch=32)


def probe(world: World, judge: Judge) -> ProbeLine:
    # One kind, and all of them together.
    line, _ = evaluate(Rows.open((world.probed,)), judge, with_pope=False).probe
    return line


def shares(world: World, model: Judge, num: int = 150) -> tuple[float, float]:
    """Of scenes with an unusual colour: answered rightly, and answered with the usual one."""
    odd = [one for one in scenes(2, 2 * num, 0.0) if not one.usual][:num]
    reader = Reader(load_family(str(world.base)), odd)
    policy = model.forward.model
    prompts = [((number,), one.scene.prompt) for number, one in enumerate(odd)]
    right = [Lesson(*p, one.scene.chosen) for p, one in zip(prompts, odd, strict=True)]
    usual = [Lesson(*p, one.habitual) for p, one in zip(prompts, odd, strict=True)]
    return (
        statistics.fmean(answered(policy, reader, right)),
        statistics.fmean(answered(policy, reader, usual)),
    )


def learn(world: World, preset: str, out: Path) -> Judge:
    wanted = settings(
        preset, "batch_size=16", "length=4 epochs", "machine.micro_batch=16",
        "optimizer.learning_rate=1e-3", "tune.name=lora", "tune.rank=16", "tune.alpha=32",
    )  # fmt: skip
    train(Request((world.taught,), str(world.base), wanted, out), Watch())
    return judged(out)


def test_it_grew_up_to_lean_on_its_habits(world: World) -> None:
    right, usual = shares(world, judged(world.base))
    # One of six by chance; it sees something, and says the usual as often as the truth.
    assert right > 0.22
    assert usual > 0.25


def test_losses_that_compare_images_make_it_look(world: World, tmp_path: Path) -> None:
    before, was = probe(world, judged(world.base)), shares(world, judged(world.base))
    found = {preset: learn(world, preset, tmp_path / preset) for preset in ("dpo", "ovip", "svco")}
    after = {preset: probe(world, judge) for preset, judge in found.items()}
    answers = {preset: shares(world, judge) for preset, judge in found.items()}

    for preset in ("ovip", "svco"):
        right, usual = answers[preset]
        assert after[preset].shown_margin.value > before.shown_margin.value + 0.8, preset
        assert right > was[0] + 0.03, preset
        assert usual < was[1] - 0.08, preset
    # Only S-VCO has the mirrored terms.
    assert after["svco"].mirrored_margin.value > before.mirrored_margin.value + 0.4
    assert after["svco"].mirrored_margin.value > after["ovip"].mirrored_margin.value + 0.2
    # Texts alone leave the habit where it was.
    assert answers["dpo"][1] > answers["ovip"][1] + 0.08
    assert after["dpo"].shown_margin.value < after["ovip"].shown_margin.value - 0.4
