"""Do the losses teach a model to look? A tiny VLM with habits, every loss, several seeds.

For each seed: a world, a model that grew up in it (`fakes/habits.py`), near misses made by
our own recipes from fresh scenes, and one run of the trainer for each loss from the same model on
the same pairs. Before and after: the trainer's probe over held-out pairs, and questions about fresh
scenes without habits (where only looking helps) and with them (where the old answers still serve).

Everything is kept in `--work`: the same command resumes.

    PYTHONPATH=. .venv/bin/python deploy/bench/learning.py --work FOLDER
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from time import monotonic
from typing import Any

from measure import header  # first: it limits threads before they start

os.environ["TOKENIZERS_PARALLELISM"] = "false"

import torch
from transformers import LlavaForConditionalGeneration

from fakes.habits import (
    KINDS,
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
from trainer.data.rows import Rows
from trainer.evaluate.judges import judge_of
from trainer.evaluate.run import Judge, evaluate
from trainer.families import load_family
from trainer.run.train import Request, train
from trainer.settings import Settings

log = logging.getLogger("learning")

LOSSES: dict[str, dict[str, Any]] = {
    "sft": {"name": "sft"},
    "sft, both images": {"name": "sft", "mirrored": True},
    "dpo": {"name": "dpo"},
    "dpo on y'": {"name": "dpo", "negative": "counterfactual"},
    "mdpo": {"name": "mdpo"},
    "ovip": {"name": "ovip"},
    "ovip, released": {"name": "ovip", "form": "released"},
    "adavip": {"name": "adavip"},
    "symmpo": {"name": "symmpo"},
    "svco": {"name": "svco"},
    "icvco": {"name": "icvco"},
    "icvco, released": {"name": "icvco", "anchor_counted_twice": True},
}
"""Every loss with its papers' constants; two without a preference to compare with."""


@dataclass(frozen=True)
class Plan:
    """The sizes of a benchmark run."""

    habit: float
    """Probability of the usual in the world."""
    scenes: int
    """Scenes of each kind that the base model sees."""
    steps: int
    """Steps of its training, 32 lessons each."""
    tower_steps: int
    """Steps of the tower's, before."""
    pairs: int
    """Scenes of each kind that recipes make training pairs from."""
    probes: int
    """Scenes of each kind for the probe, and for each set of questions."""
    rate: float
    """Trainable rate of the runs."""
    epochs: int
    """Their length."""


@dataclass(frozen=True)
class World:
    """One seed's world, in a folder."""

    folder: Path
    seed: int
    plan: Plan

    @property
    def base(self) -> Path:
        """The model that grew up in it."""
        return self.folder / "base"

    def scenes(self, purpose: int, num: int, habit: float) -> list[Asked]:
        """`num` scenes of each kind; another purpose, other scenes."""
        seed = 100 * self.seed + purpose
        return [asked(seed, k, habit, kind) for kind in KINDS for k in range(num)]

    def make_base(self) -> None:
        """Grow the model, tower first."""
        if (self.base / "done").exists():
            return
        scenes = self.scenes(1, self.plan.scenes, self.plan.habit)
        rows = lessons(scenes, self.seed)
        texts = [f"{row.prompt} {row.answer}" for row in rows]
        family = new_checkpoint(self.base, Size(), texts, self.seed)
        model = LlavaForConditionalGeneration.from_pretrained(self.base)
        start = monotonic()
        right = teach_tower(model.model.vision_tower, self.plan.tower_steps, self.seed)
        log.info("seed %d: tower %.3f after %.0f s", self.seed, right, monotonic() - start)
        teach(model, Reader(family, scenes), rows, self.plan.steps, self.seed)
        log.info("seed %d: base after %.0f s", self.seed, monotonic() - start)
        model.save_pretrained(self.base)
        (self.base / "done").write_text(f"{right:.4f}")

    def runs(self, purpose: int, num: int) -> tuple[str, ...]:
        """Runs of the four recipes over fresh scenes with habits."""
        found = []
        for kind in KINDS:
            place = self.folder / f"pairs-{purpose}" / kind
            if not place.exists():
                seed = 100 * self.seed + purpose
                some = [asked(seed, k, self.plan.habit, kind) for k in range(num)]
                beside = place.with_name(f"{kind}.writing")
                shutil.rmtree(beside, ignore_errors=True)
                write_seeds(beside, some)
                beside.rename(place)
            run = place / "run"
            command = [sys.executable, "-m", "pipeline", "run", RECIPES[kind], "--local"]
            command += ["--input", str(place / "seeds.jsonl"), "--output", str(run)]
            subprocess.run(command, check=True, capture_output=True)
            found.append(str(run))
        return tuple(found)


def measure(world: World, judge: Judge, pairs: tuple[str, ...]) -> dict[str, float]:
    """Probe and questions, by name."""
    found: dict[str, float] = {}
    report = evaluate(Rows.open(pairs), judge, with_pope=False)
    for line in report.probe:
        assert line.both is not None
        assert line.mirrored is not None
        found |= {
            f"shown {line.kind}": line.shown.value,
            f"mirrored {line.kind}": line.mirrored.value,
            f"both {line.kind}": line.both.value,
            f"nats {line.kind}": line.shown_margin.value,
        }
    policy = judge.forward.model  # type: ignore[attr-defined]
    family = load_family(str(world.base))
    for name, purpose, habit in (("plain", 4, 0.0), ("habit", 5, world.plan.habit)):
        scenes = world.scenes(purpose, world.plan.probes, habit)
        rows = [Lesson((k,), x.scene.prompt, x.scene.chosen) for k, x in enumerate(scenes)]
        right = answered(policy, Reader(family, scenes), rows)
        found[f"{name} all"] = statistics.fmean(right)
        for kind in KINDS:
            of_kind = [ok for ok, x in zip(right, scenes, strict=True) if x.kind == kind]
            found[f"{name} {kind}"] = statistics.fmean(of_kind)
    return found


def settings_of(world: World, loss: dict[str, Any]) -> Settings:
    """The same for every loss."""
    return Settings.model_validate(
        {
            "loss": loss,
            "tune": {"name": "lora", "rank": 16, "alpha": 32},
            "optimizer": {"learning_rate": world.plan.rate, "warmup": 0.1},
            "batch_size": 16,
            "length": f"{world.plan.epochs} epochs",
            "weights": "float32",
            "compute": "float32",
            "seed": world.seed,
            "machine": {
                "device": "cpu",
                "micro_batch": 16,
                "gradient_checkpointing": False,
                "loader_workers": 0,
            },
            "keep": {"checkpoint_every": 10_000},
        }
    )


class Silent:
    """A monitor that tells nobody."""

    def begin(self, step: int, num_steps: int) -> None:
        """Ignored."""

    def step(self, step: int, result: object) -> None:
        """Ignored."""

    def saved(self, folder: Path) -> None:
        """Ignored."""


def judged(model: str | Path) -> Judge:
    """A model for the measurements."""
    return judge_of(model, None, device="cpu", weights="float32", micro_batch=32)


def kept(place: Path, make: Callable[[], dict[str, float]]) -> dict[str, float]:
    """What is in the file, or what is made now."""
    if not place.exists():
        beside = place.with_suffix(".writing")
        beside.write_text(json.dumps(make()))
        beside.rename(place)
    found: dict[str, float] = json.loads(place.read_text())
    return found


def run_seed(world: World, names: list[str]) -> dict[str, dict[str, float]]:
    """All losses of one seed: measurements by loss, and "before"."""
    world.folder.mkdir(parents=True, exist_ok=True)
    world.make_base()
    taught = world.runs(2, world.plan.pairs)
    probed = world.runs(3, world.plan.probes)
    found = {
        "before": kept(
            world.folder / "before.json",
            lambda: measure(world, judged(str(world.base)), probed),
        )
    }
    for name in names:

        def learn(name: str = name) -> dict[str, float]:
            out = world.folder / "runs" / "".join(c if c.isalnum() else "-" for c in name)
            start = monotonic()
            settings = settings_of(world, LOSSES[name])
            train(Request(taught, str(world.base), settings, out), Silent())
            took = monotonic() - start
            after = measure(world, judged(out), probed)
            log.info("seed %d: %s, %.0f s, probe %.3f", world.seed, name, took, after["both all"])
            return after | {"seconds": took}

        found[name] = kept(world.folder / f"{name}.json", learn)
    return found


def table(found: list[dict[str, dict[str, float]]], columns: list[str], names: list[str]) -> str:
    """Mean over seeds with the range, in percent."""
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name in names:
        cells = []
        for column in columns:
            values = [100 * seed[name][column] for seed in found]
            cells.append(f"{statistics.fmean(values):.0f} ({min(values):.0f}-{max(values):.0f})")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def report(found: list[dict[str, dict[str, float]]], plan: Plan, names: list[str]) -> None:
    """Write the Markdown to stdout."""
    write = sys.stdout.write
    write(header("Do the losses teach a model to look?"))
    versions = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "peft"))
    write(f"\nAlso {versions}. {len(found)} seeds; {plan}.\n\n")
    names = ["before", *names]
    kinds = ("attribute", "count", "object", "position")
    write("Probe, all held-out pairs, and questions, % right: mean over seeds (lowest-highest)\n\n")
    write(table(found, ["shown all", "mirrored all", "both all", "plain all", "habit all"], names))
    write("\n\nProbe, right both ways, by kind\n\n")
    write(table(found, [f"both {kind}" for kind in kinds], names))
    write("\n\nQuestions about scenes without habits, by kind\n\n")
    write(table(found, [f"plain {kind}" for kind in KINDS], names) + "\n")


def main() -> None:
    """Run the missing parts, then report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--losses", nargs="+", default=list(LOSSES), choices=list(LOSSES))
    defaults = {
        "habit": 0.85, "scenes": 2500, "steps": 1500, "tower_steps": 800, "pairs": 150,
        "probes": 60, "rate": 5e-4, "epochs": 4,
    }  # fmt: skip
    for name, value in defaults.items():
        parser.add_argument("--" + name.replace("_", "-"), type=type(value), default=value)
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(asctime)s %(message)s")
    log.setLevel(logging.INFO)
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    plan = Plan(**{name: getattr(args, name) for name in defaults})
    args.work.mkdir(parents=True, exist_ok=True)
    asked_for = json.dumps(asdict(plan))
    planned = args.work / "plan.json"
    if planned.exists() and planned.read_text() != asked_for:
        parser.error(f"{args.work} holds results of {planned.read_text()}; give another --work")
    planned.write_text(asked_for)
    worlds = [World(args.work / f"seed-{seed}", seed, plan) for seed in range(args.seeds)]
    report([run_seed(world, args.losses) for world in worlds], plan, args.losses)


if __name__ == "__main__":
    main()
