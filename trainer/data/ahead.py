"""Reads the rows of an order before they are shown, each row group once. Knows no model.

One process of a rank reads; those that decode images get encoded rows from it. If each read for
itself, every one of them would read the same row groups.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

from trainer.data.order import MicroBatch, Order
from trainer.data.rows import Row, Rows

STEPS_AHEAD = 4
"""Steps before its first row is shown that a row group is read: a store takes a second for it."""
_THREADS = 4
"""Row groups read at a time."""


@dataclass(frozen=True, slots=True)
class Failed:
    """An error of another thread or process, to be raised where the row is asked for."""

    error: Exception


Read = tuple[MicroBatch, Sequence[Row] | Failed]
"""A micro-batch and its rows, or the error that came instead."""


class ReadAhead:
    """The micro-batches of some steps with their rows, in order; `close` it before its end."""

    def __init__(self, rows: Rows, order: Order, steps: range) -> None:
        """Nothing is read before the first micro-batch is asked for."""
        self._rows = rows
        self._order = order
        self._steps = steps
        self._pool = ThreadPoolExecutor(_THREADS, "rows")
        self._held: dict[tuple[int, int], Future[dict[int, Row]]] = {}
        self._filler: Row | None = None

    def __iter__(self) -> Iterator[Read]:
        """The micro-batches of this process."""
        planned: deque[list[MicroBatch]] = deque()
        coming = iter(self._steps)
        for step in self._steps:
            for later in coming:
                self._begin(later)
                planned.append(self._order.micro_batches(later))
                if later == step + STEPS_AHEAD:
                    break
            for micro in planned.popleft():
                try:
                    yield micro, self._take(micro)
                except Exception as error:  # noqa: BLE001  raised where the batch is asked for
                    yield micro, Failed(error)

    def close(self) -> None:
        """Stop reading."""
        self._pool.shutdown(cancel_futures=True)

    def _begin(self, step: int) -> None:
        """Have the rows read whose chunks begin with a step, those that are shown first first."""
        epoch = step // self._order.steps_per_epoch
        groups: dict[int, dict[int, int]] = {}
        for row in self._order.begun(step, resumed=step == self._steps.start):
            group, offset = self._rows.place(row)
            groups.setdefault(group, {})[row] = offset
        for group, offsets in groups.items():
            future = self._pool.submit(self._read, group, offsets)
            for row in offsets:
                self._held[epoch, row] = future

    def _read(self, group: int, offsets: dict[int, int]) -> dict[int, Row]:
        return dict(zip(offsets, self._rows.read(group, [*offsets.values()]), strict=True))

    def _take(self, micro: MicroBatch) -> tuple[Row, ...]:
        """The rows, of which nothing stays in memory here."""
        if not micro.counted:
            self._filler = self._filler or self._rows[0]
            return (self._filler,) * len(micro.rows)
        return tuple(self._held.pop((micro.epoch, row)).result().pop(row) for row in micro.rows)
