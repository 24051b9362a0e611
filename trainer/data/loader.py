"""Prefetches batches in order, in other processes if the settings ask for it. Knows no model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from torch.utils.data import DataLoader, Dataset, Sampler

from trainer.data.batches import Batch
from trainer.data.order import MicroBatch, Order
from trainer.data.rows import Row, Rows

Build = Callable[[Sequence[Row], int], Batch]
"""Rows and the epoch to a batch; made in another process, so it must travel."""


@dataclass(frozen=True, slots=True)
class _Failed:
    """An error of another process, to be raised here."""

    error: Exception


class _Prepared(Dataset[tuple[MicroBatch, "Batch | _Failed"]]):
    def __init__(self, rows: Rows, build: Build) -> None:
        self.rows = rows
        self.build = build

    def __getitem__(self, micro: MicroBatch) -> tuple[MicroBatch, Batch | _Failed]:
        try:
            return micro, self.build([self.rows[row] for row in micro.rows], micro.epoch)
        except Exception as error:  # noqa: BLE001  raised where the batch is asked for
            # As it is: the loader itself would fold a traceback into the message.
            return micro, _Failed(error)


class _Places(Sampler[MicroBatch]):
    def __init__(self, order: Order, start: int, stop: int) -> None:
        self.order = order
        self.steps = range(start, stop)

    def __iter__(self) -> Iterator[MicroBatch]:
        for step in self.steps:
            yield from self.order.micro_batches(step)


def steps(
    rows: Rows,
    build: Build,
    order: Order,
    *,
    start: int,
    stop: int,
    workers: int,
    pin: bool,
) -> Iterator[tuple[int, Iterator[tuple[MicroBatch, Batch]]]]:
    """The steps from `start` on, each with its micro-batches on this process.

    Take all of a step before the next one. What `build` raises is raised here. `pin` puts pixels
    where a GPU can fetch them while it computes.
    """
    loader = DataLoader(
        _Prepared(rows, build),
        batch_size=None,
        sampler=_Places(order, start, stop),
        num_workers=workers,
        pin_memory=pin,
        prefetch_factor=2 if workers else None,
    )
    flow = _checked(iter(loader))
    for step in range(start, stop):
        yield step, islice(flow, len(order.micro_batches(step)))


def _checked(
    flow: Iterator[tuple[MicroBatch, Batch | _Failed]],
) -> Iterator[tuple[MicroBatch, Batch]]:
    for micro, batch in flow:
        if isinstance(batch, _Failed):
            raise batch.error
        yield micro, batch
