"""Progress for a person: a live line on a terminal, one line a minute in a log file."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from trainer.run.loop import StepResult

log = logging.getLogger(__name__)

LOG_EVERY_S = 60.0


@dataclass
class ProgressLine:
    """A `Monitor` of a run; use it as a context manager around `train`."""

    console: Console = field(default_factory=lambda: Console(stderr=True))
    """Where the live line goes, if it is a terminal."""
    _bar: Progress | None = field(default=None, init=False)
    _begun_s: float = field(default=0.0, init=False)
    _begun_at: int = field(default=0, init=False)
    _logged_s: float = field(default=0.0, init=False)
    _num_steps: int = field(default=0, init=False)

    def __enter__(self) -> Self:
        """Start to show."""
        if self.console.is_terminal:
            columns = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
            self._bar = Progress(*columns, console=self.console, transient=True)
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop showing."""
        if self._bar is not None:
            self._bar.stop()

    def begin(self, step: int, num_steps: int) -> None:
        """See `Monitor`."""
        self._num_steps, self._begun_at, self._begun_s = num_steps, step, monotonic()
        self._logged_s = self._begun_s
        if self._bar is not None:
            self._bar.add_task("", total=num_steps, completed=step)

    def step(self, step: int, result: StepResult) -> None:
        """See `Monitor`."""
        line = self.line(step, result, monotonic())
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=step, description=line)
        elif monotonic() - self._logged_s >= LOG_EVERY_S or step == self._num_steps:
            self._logged_s = monotonic()
            log.info("step %d of %d, %s", step, self._num_steps, line)

    def saved(self, folder: Path) -> None:
        """See `Monitor`."""
        log.info("checkpoint %s", folder.name)

    def line(self, step: int, result: StepResult, now_s: float) -> str:
        """The step in words: loss, accuracy, rate, speed of this attempt and time left."""
        parts = [f"loss {result.sums['loss'] / result.rows:.4f}"]
        if "accuracy" in result.sums:
            parts.append(f"accuracy {result.sums['accuracy'] / result.rows:.2f}")
        parts.append(f"rate {result.rate:.2e}")
        step_s = (now_s - self._begun_s) / max(1, step - self._begun_at)
        left = timedelta(seconds=round(step_s * (self._num_steps - step)))
        return ", ".join([*parts, f"{result.rows / max(step_s, 1e-9):.2f} rows/s, {left} left"])
