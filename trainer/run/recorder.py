"""Writes the metrics, checkpoints and result of a run."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Protocol, Self

import torch
from safetensors import SafetensorError
from torch import Tensor

from trainer.errors import CheckpointFileError
from trainer.model.policy import Policy
from trainer.model.processes import Processes
from trainer.model.weights import (
    WEIGHTS,
    gather_optimizer,
    gather_weights,
    save_optimizer,
    save_weights,
)
from trainer.run.checkpoints import Checkpoints, Position, whole_folder
from trainer.run.loop import StepResult
from trainer.run.merge import base_of, copy_companions
from trainer.run.metrics import MetricsFile, Window
from trainer.run.run_folder import CARD, RunFolder
from trainer.run.stop import StopRequest
from trainer.settings import Keep


class Monitor(Protocol):
    """Receives the progress of a run, on the first process."""

    def begin(self, step: int, num_steps: int) -> None:
        """The steps begin, `step` of them done by earlier attempts."""

    def step(self, step: int, result: StepResult) -> None:
        """The step of this number, from 1, is done."""

    def saved(self, folder: Path) -> None:
        """A checkpoint is written."""


@dataclass
class Recorder:
    """Follows the steps of one attempt; use it as a context manager around them."""

    folder: RunFolder
    """The run's folder."""
    keep: Keep
    """How often."""
    processes: Processes
    """All of them call every method; the first one writes."""
    policy: Policy
    """What is saved."""
    origin: tuple[str, str | None]
    """Model and commit that the run began from: where a whole model's tokenizer is taken from."""
    position: Position
    """Where the attempt begins."""
    monitor: Monitor
    """Told on the first process."""
    _file: MetricsFile | None = field(default=None, init=False)
    _window: Window = field(default_factory=Window, init=False)
    _line_s: float = field(default_factory=monotonic, init=False)

    @property
    def checkpoints(self) -> Checkpoints:
        """The run's checkpoints."""
        return Checkpoints(self.folder.path / "checkpoints", self.keep.checkpoints)

    def __enter__(self) -> Self:
        """Remove metrics of steps that will be repeated."""
        self._window = Window(dict(self.position.sums))
        if self.processes.first:
            self._file = MetricsFile(self.folder.path, self.position.step)
            self.monitor.begin(self.position.step, self.position.num_steps)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Flush and close the metrics."""
        if self._file is not None:
            self._file.close()

    def step(self, done: int, epoch: float, result: StepResult) -> bool:
        """Note the step with which `done` are done; returns whether the run is to stop here.

        Raises CheckpointFileError on all processes.
        """
        rates = {"learning_rate": result.rate, "gradient_norm": result.norm, "epoch": epoch}
        sums = result.sums | {name: value * result.rows for name, value in rates.items()}
        self._window.add(sums, result.rows)
        if done % self.keep.log_every == 0 or done == self.position.num_steps:
            self._write_line(done)
        if self.processes.first:
            self.monitor.step(done, result)
        ends = done == self.position.num_steps
        if done % self.keep.checkpoint_every == 0 or ends or result.asked is not StopRequest.GO_ON:
            self._save(done)
        return result.asked is StopRequest.STOP and not ends

    def finish(self) -> None:
        """Write the result: `final/` with the weights, loadable as they are."""
        weights = gather_weights(self.policy.model, keep=self.processes.first)
        self.processes.from_first(lambda: self._write_final(weights))

    def _write_line(self, done: int) -> None:
        rows = self._window.sums["rows"]
        values = self._window.close()
        now = monotonic()
        values["time/rows_per_s"] = rows / max(1e-9, now - self._line_s)
        self._line_s = now
        if self.processes.device.type == "cuda":
            values["memory/peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
        if self._file is not None:
            self._file.write(done, values)

    def _save(self, done: int) -> None:
        weights = gather_weights(self.policy.model, keep=self.processes.first)
        optimizer = gather_optimizer(
            self.policy.model, self.policy.optimizer, keep=self.processes.first
        )
        position = replace(self.position, step=done, sums=dict(self._window.sums))

        def content(folder: Path) -> None:
            self._write_weights(folder, weights)
            save_optimizer(folder, optimizer)

        def write() -> None:
            self.monitor.saved(self.checkpoints.write(position, content))

        self.processes.from_first(write)

    def _write_weights(self, folder: Path, weights: dict[str, Tensor]) -> None:
        """Fill `folder/weights/`; a whole model gets its tokenizer, or nobody could load it."""
        save_weights(folder, self.policy.model, weights)
        if base_of(folder / WEIGHTS) is None:
            copy_companions(*self.origin, folder / WEIGHTS)

    def _write_final(self, weights: dict[str, Tensor]) -> None:
        try:
            with whole_folder(self.folder.final) as folder:
                self._write_weights(folder, weights)
                shutil.copyfile(self.folder.path / CARD, folder / CARD)
        except (OSError, SafetensorError) as error:
            message = " ".join(str(error).split())
            raise CheckpointFileError(
                f"the result could not be written to {self.folder.final}: {message}; "
                "the last checkpoint is intact, and the same command resumes from there"
            ) from error
