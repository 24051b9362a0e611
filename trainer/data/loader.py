"""Prefetches batches in order, made in other processes if the settings ask for it.

Knows no model.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from itertools import islice

from torch.utils.data import DataLoader, Dataset, Sampler

from trainer.data.ahead import Failed, Read, ReadAhead
from trainer.data.batches import Batch
from trainer.data.order import MicroBatch, Order
from trainer.data.rows import Row, Rows

Build = Callable[[Sequence[Row], int], Batch]
"""Rows and the epoch to a batch; made in another process, so it must travel."""


class _Prepared(Dataset[tuple[MicroBatch, "Batch | Failed"]]):
    def __init__(self, build: Build) -> None:
        self.build = build

    def __getitem__(self, read: Read) -> tuple[MicroBatch, Batch | Failed]:
        micro, rows = read
        if isinstance(rows, Failed):
            return micro, rows
        try:
            return micro, self.build(rows, micro.epoch)
        except Exception as error:  # noqa: BLE001  raised where the batch is asked for
            # As it is: the loader itself would fold a traceback into the message.
            return micro, Failed(error)


class _InOrder(Sampler[Read]):
    """What the loader takes for the numbers of its items: rows, read in this process."""

    def __init__(self, ahead: ReadAhead) -> None:
        self.ahead = ahead

    def __iter__(self) -> Iterator[Read]:
        return iter(self.ahead)


def steps(
    rows: Rows,
    build: Build,
    order: Order,
    *,
    start: int,
    stop: int,
    workers: int,
    pin: bool,
) -> Generator[tuple[int, Iterator[tuple[MicroBatch, Batch]]]]:
    """The steps from `start` on, each with its micro-batches on this process.

    Take all of a step before the next one, and close the generator where it is left early. What
    reading or `build` raises is raised here. `pin` puts pixels where a GPU can fetch them while it
    computes.
    """
    ahead = ReadAhead(rows, order, range(start, stop))
    try:
        loader = DataLoader(
            _Prepared(build),
            batch_size=None,
            sampler=_InOrder(ahead),
            num_workers=workers,
            pin_memory=pin,
            prefetch_factor=2 if workers else None,
        )
        flow = _checked(iter(loader))
        for step in range(start, stop):
            yield step, islice(flow, order.micro_batches_of(step))
    finally:
        ahead.close()


def _checked(
    flow: Iterator[tuple[MicroBatch, Batch | Failed]],
) -> Iterator[tuple[MicroBatch, Batch]]:
    for micro, batch in flow:
        if isinstance(batch, Failed):
            raise batch.error
        yield micro, batch
