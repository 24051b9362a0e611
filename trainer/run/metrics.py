"""The metrics of a run: one line of JSON a window of steps, and the same in TensorBoard's files.

A resumed run takes back the lines after its checkpoint and goes on in the middle of a window, so
the file is that of an uninterrupted run, `time/` and `memory/` aside.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from time import sleep
from typing import TYPE_CHECKING

from schemas.files import Folder

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

FILE = "metrics.jsonl"
_ROWS = "rows"


@dataclass
class Window:
    """Metrics since the last written line, as sums over rows."""

    sums: dict[str, float] = field(default_factory=dict)
    """By name; `rows` is their number. This is what a checkpoint keeps."""

    def add(self, sums: Mapping[str, float], rows: int) -> None:
        """Add a step's sums over its rows."""
        for name, value in (*sums.items(), (_ROWS, rows)):
            self.sums[name] = self.sums.get(name, 0.0) + value

    def close(self) -> dict[str, float]:
        """The means over the rows, and an empty window."""
        rows = self.sums.pop(_ROWS)
        means = {name: value / rows for name, value in self.sums.items()}
        self.sums.clear()
        return means


@dataclass
class MetricsFile:
    """`metrics.jsonl` and TensorBoard's files of a run. Only the first process has one."""

    out: Path
    """The run's folder."""
    step: int
    """Steps done so far; lines about later steps are removed."""
    _board: SummaryWriter = field(init=False)

    def __post_init__(self) -> None:
        """Remove later lines and open TensorBoard's file."""
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  1 s, first process only

        folder = Folder.at(str(self.out))
        if folder.exists(FILE):
            kept = [line for line in read_metrics(self.out) if line["step"] <= self.step]
            text = "".join(json.dumps(line) + "\n" for line in kept)
            folder.write(FILE, text.encode())
        board = self.out / "tensorboard"
        _wait_for_a_later_second(board)
        self._board = SummaryWriter(str(board), purge_step=self.step + 1)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add a line for the window that ends with this step (counted from 1)."""
        with (self.out / FILE).open("a", encoding="utf-8") as stream:
            # JSON has no NaN: an impossible answer's margin, say, is written as null.
            finite = {name: value if isfinite(value) else None for name, value in values.items()}
            stream.write(json.dumps({"step": step, **finite}) + "\n")
        for name, value in values.items():
            self._board.add_scalar(name, value, step)

    def close(self) -> None:
        """Flush and close TensorBoard."""
        self._board.close()


def _wait_for_a_later_second(board: Path) -> None:
    """Return once no file of TensorBoard's in the folder is of the present second.

    They are read in the order of their names, which begin with the second they were made in. One of
    an equal second may come before the file whose steps it takes back.
    """
    made = {int(file.name.split(".")[3]) for file in board.glob("events.out.tfevents.*")}
    while int(datetime.now(UTC).timestamp()) in made:
        sleep(0.05)


def read_metrics(out: Path) -> list[dict[str, float]]:
    """The lines of a run; a last line that a kill cut short is left out."""
    found = []
    for line in (out / FILE).read_text("utf-8").splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found
