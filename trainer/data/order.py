"""Which rows a step shows, and to which process: a function of the position and nothing else.

So a resumed run continues in the same order without saved state, and every row is shown exactly
once an epoch, whatever the number of processes and however unequal their shares.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schemas.ids import row_seed
from trainer.settings import steps_per_epoch


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Rows of one forward on one process."""

    step: int
    """Optimizer step that it belongs to, from 0."""
    index: int
    """Its place among the micro-batches of the step on this process, from 0."""
    epoch: int
    """Epoch, from 0."""
    rows: tuple[int, ...]
    """Row numbers, at least one."""
    counted: bool
    """False for a filler: this process has no rows left in the step, but the other processes wait
    for it in their collectives. It runs a row with weight 0."""
    last: bool
    """Whether gradients are exchanged and the optimizer steps after it."""


@dataclass(frozen=True, slots=True)
class Order:
    """The order of a run, as one of its processes sees it."""

    num_rows: int
    """Rows of an epoch."""
    batch_size: int
    """Rows of a step over all processes; the last step of an epoch takes what is left."""
    micro_batch: int
    """Rows of one forward, at most."""
    seed: int
    """The run's seed."""
    rank: int = 0
    """Number of this process."""
    world: int = 1
    """Number of processes."""

    def rows_of(self, step: int) -> tuple[int, NDArray[np.int64]]:
        """Epoch of a step and the row numbers of all processes, in order."""
        epoch, place = divmod(step, steps_per_epoch(self.num_rows, self.batch_size))
        rows = self._epoch(epoch)[place * self.batch_size : (place + 1) * self.batch_size]
        return epoch, rows

    def micro_batches(self, step: int) -> list[MicroBatch]:
        """What this process does in a step; equally many micro-batches on every process."""
        epoch, rows = self.rows_of(step)
        own = rows[self.rank :: self.world].tolist()
        largest_share = -(-len(rows) // self.world)
        number = -(-largest_share // self.micro_batch)
        found = []
        for index in range(number):
            part = own[index * self.micro_batch : (index + 1) * self.micro_batch]
            shown = tuple(part or rows[:1].tolist())
            found.append(MicroBatch(step, index, epoch, shown, bool(part), index == number - 1))
        return found

    def _epoch(self, epoch: int) -> NDArray[np.int64]:
        seed = row_seed(self.seed, f"epoch {epoch}", "order")
        return np.random.Generator(np.random.PCG64(seed)).permutation(self.num_rows)
