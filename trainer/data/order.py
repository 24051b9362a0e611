"""Which rows a step shows, and to which process: a function of the position and nothing else.

So a resumed run continues in the same order without saved state, and every row is shown exactly
once an epoch, whatever the number of processes and however unequal their shares.

Rows that are stored together are a block (a row group), which is read whole or not at all. An epoch
draws an order of the blocks, and an order of the rows in each; the list that this makes is cut into
as many equal lanes as a step has rows. A step shows one row of every lane. So the rows of a step
come from all over the data, while a process, which has some neighbouring lanes for itself, reads
few blocks at a time and each of them once. Inside a lane the rows are shuffled again, in chunks of
whole blocks; the chunks of all lanes that are open at a time are the window. What fits into the
window is one chunk a lane: each of its rows may come in any step.

No part of it takes longer for more rows, but for the order of the blocks, once an epoch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from schemas.ids import row_seed
from trainer.settings import steps_per_epoch

Numbers = NDArray[np.int64]

_GOLDEN = 0.6180339887498949
"""Multiples of it, less their whole parts, are spread evenly, however many one takes."""
_EPOCHS_KEPT = 2
"""The loader may be in the next epoch while the step is still in this one."""


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
    for it in their collectives. It runs row 0 with weight 0."""
    last: bool
    """Whether gradients are exchanged and the optimizer steps after it."""


@dataclass
class Order:
    """The order of a run, as one of its processes sees it."""

    blocks: Numbers
    """Rows of each block, none of them empty: the first block holds rows 0, 1, ..."""
    batch_size: int
    """Rows of a step over all processes; the last step of an epoch takes what is left."""
    micro_batch: int
    """Rows of one forward, at most."""
    seed: int
    """The run's seed."""
    window: int
    """Rows that are shuffled with each other: `Settings.shuffle_window`."""
    rank: int = 0
    """Number of this process."""
    world: int = 1
    """Number of processes."""
    _epochs: dict[int, _Epoch] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        """Find what all epochs share."""
        self.num_rows = int(self.blocks.sum())
        """Rows of an epoch."""
        self.steps_per_epoch = steps_per_epoch(self.num_rows, self.batch_size)
        """Steps that show each of them once."""
        lanes = range(self.batch_size + 1)
        first, end = (self.batch_size * r // self.world for r in (self.rank, self.rank + 1))
        self.lanes = lanes[first:end]
        """The lanes of this process."""

    def size_of(self, step: int) -> int:
        """Rows of a step over all processes."""
        place = step % self.steps_per_epoch
        return min(self.batch_size, self.num_rows - place * self.batch_size)

    def rows_of(self, step: int) -> list[int]:
        """Row numbers that a step shows on this process, in order."""
        epoch, place = divmod(step, self.steps_per_epoch)
        layout = self._epoch(epoch)
        return [layout.row(lane, place) for lane in self.lanes if layout.has(lane, place)]

    def micro_batches(self, step: int) -> list[MicroBatch]:
        """What this process does in a step; equally many micro-batches on every process."""
        own = self.rows_of(step)
        number = self.micro_batches_of(step)
        found = []
        for index in range(number):
            part = own[index * self.micro_batch : (index + 1) * self.micro_batch]
            shown = tuple(part or [0])
            epoch = step // self.steps_per_epoch
            found.append(MicroBatch(step, index, epoch, shown, bool(part), index == number - 1))
        return found

    def micro_batches_of(self, step: int) -> int:
        """How many micro-batches a step has."""
        size = self.size_of(step)
        # Lanes that have a row in the last step of an epoch lie evenly among the others.
        ranks = range(self.world + 1)
        cuts = [size * (self.batch_size * r // self.world) // self.batch_size for r in ranks]
        largest_share = max(end - start for start, end in pairwise(cuts))
        return -(-largest_share // self.micro_batch)

    def begun(self, step: int, *, resumed: bool) -> list[int]:
        """Rows of the chunks that this process begins with this step, as they will be shown.

        All of a chunk's rows are shown soon, so whoever reads one of them should keep the others.
        `resumed` adds what is left of the chunks that began earlier.
        """
        epoch, place = divmod(step, self.steps_per_epoch)
        layout = self._epoch(epoch)
        ahead = [layout.ahead(lane, place, resumed=resumed) for lane in self.lanes]
        places = np.concatenate([np.arange(len(rows)) for rows in ahead] or [np.zeros(0, np.int64)])
        rows = np.concatenate([*ahead, np.zeros(0, np.int64)])
        found: list[int] = rows[np.argsort(places, kind="stable")].tolist()
        return found

    def _epoch(self, number: int) -> _Epoch:
        if number not in self._epochs:
            self._epochs[number] = _Epoch(self, number)
            for old in sorted(self._epochs)[:-_EPOCHS_KEPT]:
                del self._epochs[old]
        return self._epochs[number]


class _Epoch:
    """The list of an epoch, its lanes and their chunks, each made when it is first asked for."""

    def __init__(self, order: Order, number: int) -> None:
        self.order = order
        self.number = number
        self.by_place = self._random("order").permutation(len(order.blocks))
        """Blocks as they follow each other in the list."""
        self.ends = np.cumsum(order.blocks[self.by_place])
        """Where in the list each ends."""
        self.firsts = np.cumsum(order.blocks) - order.blocks
        """First row of every block."""
        self.edges: dict[int, Numbers] = {}
        self.open: dict[int, tuple[int, Numbers]] = {}
        """Of every lane the chunk that was asked for last: its edge's number, and its rows."""

    def has(self, lane: int, place: int) -> bool:
        """Whether a lane has a row at this step of the epoch: in the last one some have none."""
        return self._start(lane) + place < self._start(lane + 1)

    def row(self, lane: int, place: int) -> int:
        """The row that a lane shows."""
        edge, rows = self._chunk(lane, place)
        return int(rows[self._start(lane) + place - self._edges(lane)[edge]])

    def ahead(self, lane: int, place: int, *, resumed: bool) -> Numbers:
        """The rows from here to the end of the chunk; none where it began earlier."""
        if not self.has(lane, place):
            return np.zeros(0, np.int64)
        edge, rows = self._chunk(lane, place)
        offset = self._start(lane) + place - self._edges(lane)[edge]
        return rows[offset:] if resumed or offset == 0 else rows[:0]

    def _chunk(self, lane: int, place: int) -> tuple[int, Numbers]:
        edges = self._edges(lane)
        edge = int(np.searchsorted(edges, self._start(lane) + place, side="right")) - 1
        if lane not in self.open or self.open[lane][0] != edge:
            rows = self._rows(int(edges[edge]), int(edges[edge + 1]))
            random = self._random(f"lane {lane} from {edges[edge]}")
            self.open[lane] = (edge, random.permutation(rows))
        return self.open[lane]

    def _rows(self, start: int, end: int) -> Numbers:
        """The rows of a stretch of the list."""
        found = []
        place = start
        while place < end:
            at = int(np.searchsorted(self.ends, place, side="right"))
            block = int(self.by_place[at])
            size = int(self.order.blocks[block])
            first = int(self.ends[at]) - size
            part = slice(place - first, min(size, end - first))
            # A lane may end inside a block: which rows of it are in which lane is drawn, too.
            found.append(
                self.firsts[block] + self._random(f"block {block}").permutation(size)[part]
            )
            place = first + part.stop
        return np.concatenate(found)

    def _start(self, lane: int) -> int:
        """Where in the list a lane begins; the lanes that are a row longer lie evenly."""
        rows, lanes = self.order.num_rows, self.order.batch_size
        return rows // lanes * lane + rows % lanes * lane // lanes

    def _edges(self, lane: int) -> Numbers:
        """Where in the list the chunks of a lane begin, and its end."""
        if lane not in self.edges:
            start, end = self._start(lane), self._start(lane + 1)
            inside = np.zeros(0, np.int64)
            if self.order.num_rows > self.order.window:
                size = max(1, self.order.window // self.order.batch_size)
                # Lanes begin their chunks at different times, so that reading goes on evenly.
                phase = int(size * (lane * _GOLDEN % 1))
                wanted = np.arange(start + phase, end, size)
                whole = self.ends[np.searchsorted(self.ends, wanted)]
                inside = np.unique(whole[(start < whole) & (whole < end)])
            self.edges[lane] = np.concatenate([[start], inside, [end]]).astype(np.int64)
        return self.edges[lane]

    def _random(self, what: str) -> np.random.Generator:
        seed = row_seed(self.order.seed, f"epoch {self.number}", what)
        return np.random.Generator(np.random.PCG64(seed))
