"""Short trainings on a CPU, and a monitor that remembers and meddles.

`python -m tests.trainer.training JSON` is a driver for several processes: it does the runs that the
JSON lists one after the other, so that processes are started once for all.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from trainer.errors import NonFiniteLossError
from trainer.run.loop import StepResult
from trainer.run.metrics import read_metrics
from trainer.run.stop import StopRequest
from trainer.run.train import Request, train
from trainer.settings import Settings, Source, load_settings

# Tiny models gain nothing from threads, which on a busy machine wait for each other.
torch.set_num_threads(1)

SMALL = (
    "weights=float32",
    "compute=float32",
    "machine.device=cpu",
    "machine.loader_workers=0",
    "machine.micro_batch=2",
    "batch_size=3",
    "length=2 epochs",
    "keep.checkpoint_every=2",
    "optimizer.learning_rate=3e-3",
)
FULL = ("svco", "symmpo", "adavip")


def overrides(preset: str, *more: str) -> list[str]:
    """What makes a preset small enough for a test."""
    rank = () if preset in FULL else ("tune.rank=4", "tune.alpha=8")
    return [*SMALL, *rank, *more]


def settings(preset: str, *more: str) -> Settings:
    return load_settings(Source(preset, overrides=overrides(preset, *more)))


@dataclass
class Watch:
    """A monitor that remembers, and can act when a step is done."""

    act: Callable[[int], None] = lambda step: None
    begun: list[int] = field(default_factory=list)
    losses: dict[int, float] = field(default_factory=dict)
    saves: list[str] = field(default_factory=list)

    def begin(self, step: int, num_steps: int) -> None:
        self.begun.append(step)

    def step(self, step: int, result: StepResult) -> None:
        self.losses[step] = result.sums["loss"] / result.rows
        self.act(step)

    def saved(self, folder: Path) -> None:
        self.saves.append(folder.name)


def stop_after(steps: int) -> Callable[[], StopRequest]:
    """A wish to stop after so many steps of an attempt."""
    asked = iter(range(1, 1_000_000))
    return lambda: StopRequest.STOP if next(asked) == steps else StopRequest.GO_ON


def lines(out: Path) -> list[dict[str, float]]:
    """The metrics of a run, less what no two runs share."""
    return [
        {key: value for key, value in line.items() if not key.startswith(("time/", "memory/"))}
        for line in read_metrics(out)
    ]


def result(out: Path) -> dict[str, Tensor]:
    """The trained weights."""
    (path,) = (out / "final" / "weights").glob("*.safetensors")
    return load_file(path)


def main(plan: str) -> None:
    for job in json.loads(plan):
        wanted = settings(job["preset"], *job["overrides"])
        request = Request((job["run"],), job["model"], wanted, Path(job["out"]))
        stop_check = stop_after(job.get("stop", 1_000_000))
        if "refused" in job:
            with pytest.raises(NonFiniteLossError, match=job["refused"]):
                train(request, Watch(), stop_check)
        else:
            assert train(request, Watch(), stop_check).complete is not ("stop" in job)


if __name__ == "__main__":
    main(sys.argv[1])
