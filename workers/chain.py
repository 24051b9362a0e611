"""A chain of stages over one micro-batch: fan-out, groups, drops, isolation of rows that raise.

Knows stages and records. Does not know where the records come from, which process it runs in, or
how a row that kills the process is found (`guard.py`).
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import groupby
from time import monotonic
from typing import Any

from schemas.outcomes import FlowRecord, Origin, Outcome, seed_of
from schemas.records import Drop, Reason
from stages.base import Device, GroupStage, Metered, ServiceDown, Stage
from workers.counters import Counters
from workers.failure import OpenError
from workers.plugin import Plugin, plugins_of

log = logging.getLogger(__name__)

AnyBatchStage = Stage[Any, Any]
AnyGroupStage = GroupStage[Any]
AnyStage = AnyBatchStage | AnyGroupStage
"""Their record types are checked when a recipe is read (`consumes`, `produces`)."""

Result = Sequence[FlowRecord] | Drop
"""What a stage made of one record."""

StageGuard = Callable[[str], AbstractContextManager[None]]
"""Wraps every call into a stage; given the stage's name. Time limits live behind it."""


class StageContractError(Exception):
    """A stage broke its contract: an error in the code, so it stops the run, not one row."""


@dataclass(frozen=True)
class Link:
    """A stage and its name in the recipe."""

    name: str
    """Key in the recipe; unique in its chain."""
    stage: AnyStage
    """The stage, not yet opened."""

    def __reduce__(self) -> tuple[Callable[..., Link], tuple[tuple[Plugin, ...], str, AnyStage]]:
        """Pickled behind the plugins that it needs: unpickling them makes their classes known."""
        return _link, (plugins_of(self.stage), self.name, self.stage)


def _link(_: tuple[Plugin, ...], name: str, stage: AnyStage) -> Link:
    return Link(name, stage)


@dataclass(frozen=True)
class Chain:
    """One recipe's stages in order, or the part of them that one actor runs."""

    origin: Origin
    """What all rows of this chain share."""
    links: tuple[Link, ...]
    """The stages, in order."""


@dataclass
class ChainRunner:
    """Runs micro-batches through a chain whose stages it opens and closes."""

    chain: Chain
    """What to run."""
    counters: Counters
    """Where rows, drops, seconds and use are counted."""
    guard: StageGuard = field(default=lambda _: nullcontext())
    """Wraps every call into a stage."""
    _limits: dict[str, int] = field(default_factory=dict, init=False)
    """Largest batch that fitted into memory, per stage that once ran out of it."""

    def open(self, device: Device) -> None:
        """Open every stage on the device; if one fails, close those open and raise OpenError."""
        try:
            for link in self.chain.links:
                if isinstance(link.stage, Stage):
                    _open(link.name, link.stage, device)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Close every stage."""
        for link in self.chain.links:
            if isinstance(link.stage, Stage):
                link.stage.close()

    def run(self, records: Sequence[FlowRecord]) -> tuple[list[FlowRecord], list[Outcome]]:
        """The records that came through all links, and the outcomes of those that did not.

        All records of one seed must be in the same call.
        """
        live, outcomes = list(records), list[Outcome]()
        for link in self.chain.links:
            if not live:
                break
            before, used = monotonic(), _usage(link.stage)
            produced, drops = self._step(link, live)
            outcomes += [Outcome(record, self.chain.origin, d, link.name) for record, d in drops]
            self.counters.count(
                (self.chain.origin.recipe, link.name),
                num_in=len(live),
                num_out=len(produced),
                reasons=[d.reason for _, d in drops],
                busy_s=monotonic() - before,
                usage={n: v - used.get(n, 0.0) for n, v in _usage(link.stage).items()},
            )
            live = produced
        return live, outcomes

    def _step(
        self, link: Link, live: list[FlowRecord]
    ) -> tuple[list[FlowRecord], list[tuple[FlowRecord, Drop]]]:
        """Records that one stage produced, and (record, drop) of those it did not let through."""
        results: Iterator[tuple[FlowRecord, Result]]
        if isinstance(link.stage, GroupStage):
            groups = [list(g) for _, g in groupby(live, key=lambda r: seed_of(r).seed_id)]
            results = (pair for group in groups for pair in self._select(link, link.stage, group))
        else:
            size = self._limits.get(link.name, len(live))
            batches = [live[i : i + size] for i in range(0, len(live), size)]
            results = (
                pair
                for batch in batches
                for pair in zip(batch, self._process(link, link.stage, batch), strict=True)
            )
        produced: list[FlowRecord] = []
        drops: list[tuple[FlowRecord, Drop]] = []
        for record, result in results:
            if isinstance(result, Drop):
                drops.append((record, result))
            else:
                produced += result
        return produced, drops

    def _process(self, link: Link, stage: AnyBatchStage, batch: list[FlowRecord]) -> list[Result]:
        """One result per record; a batch that raises is halved down to the record at fault."""
        try:
            with self.guard(link.name):
                results = list(stage.process(batch))
        except ServiceDown:
            raise
        except Exception as error:  # noqa: BLE001  # the one place where trouble becomes a drop
            if len(batch) == 1:
                return [_trouble(link, error)]
            short_of_memory = _out_of_memory(error)
        else:
            return self._checked(link, stage, batch, results)
        # Outside the handler, so that the error no longer holds the failed call's memory.
        middle = len(batch) // 2
        if short_of_memory:
            self._limits[link.name] = min(middle, self._limits.get(link.name, middle))
            log.warning("%s ran out of memory on %d rows; now %d", link.name, len(batch), middle)
        return self._process(link, stage, batch[:middle]) + self._process(
            link, stage, batch[middle:]
        )

    def _checked(
        self,
        link: Link,
        stage: AnyBatchStage,
        batch: list[FlowRecord],
        results: list[Result],
    ) -> list[Result]:
        """The results, checked against the stage's contract."""
        if len(results) != len(batch):
            raise StageContractError(
                f"stage {link.name} gave {len(results)} results for {len(batch)} records; "
                "a stage owes one per record, in order"
            )
        for result in results:
            _check(link, result, stage.produces)
        return results

    def _select(
        self, link: Link, stage: AnyGroupStage, group: list[FlowRecord]
    ) -> list[tuple[FlowRecord, Result]]:
        """One (record, result) per record of a seed; a choice that raises drops all of them."""
        try:
            with self.guard(link.name):
                chosen = list(stage.select(group))
        except ServiceDown:
            raise
        except Exception as error:  # noqa: BLE001  # as in `_process`
            return [(record, _trouble(link, error)) for record in group]
        if len(chosen) != len(group):
            raise StageContractError(
                f"stage {link.name} gave {len(chosen)} results for a group of {len(group)}"
            )
        results = [x if isinstance(x, Drop) else [x] for x in chosen]
        for result in results:
            _check(link, result, stage.produces)
        return list(zip(group, results, strict=True))


def _open(name: str, stage: AnyBatchStage, device: Device) -> None:
    try:
        stage.open(device)
    except Exception as error:
        raise OpenError(name) from error


def _usage(stage: AnyStage) -> dict[str, float]:
    """What the stage's models have used so far, added up."""
    total: dict[str, float] = {}
    for model in stage.models() if isinstance(stage, Stage) else ():
        if isinstance(model, Metered):
            for name, amount in model.usage().items():
                total[name] = total.get(name, 0.0) + amount
    return total


def _check(link: Link, result: Result, produces: type) -> None:
    if isinstance(result, Drop):
        return
    if not result or not all(isinstance(record, produces) for record in result):
        raise StageContractError(
            f"stage {link.name} gave {result!r:.200}; it owes a Drop or one or more "
            f"{produces.__name__} records"
        )


def _trouble(link: Link, error: Exception) -> Drop:
    if _out_of_memory(error):
        return Drop(Reason.OUT_OF_MEMORY, f"{link.name}: one row alone does not fit: {error}")
    log.warning("%s raised on one row: %r", link.name, error)
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    where = " < ".join(f"{f.name} {f.filename.rsplit('/', 1)[-1]}:{f.lineno}" for f in frames[::-1])
    return Drop(Reason.MODEL_ERROR, f"{type(error).__name__}: {error} [{where}]"[:2000])


def _out_of_memory(error: Exception) -> bool:
    """Whether the device or the machine ran out of memory; torch's class is known by its name."""
    return isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
