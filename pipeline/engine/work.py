"""What an engine is given to run, and who hears how it goes. Starts nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from pipeline.engine.placement import GroupPlacement, Placement, split
from pipeline.errors import RunError, UsageError
from stages.base import Device, SelfLimited, Stage
from workers.chain import Chain
from workers.counters import Counters
from workers.failure import Failure
from workers.worker import Assignment, Group


class Monitor(Protocol):
    """Hears from an engine how a run goes."""

    def live(self, counts: dict[str, Counters]) -> None:
        """Latest counts of shards in work, by "shard-group"."""

    def done(self, shard: int, counters: Counters) -> None:
        """A shard's part is written. May raise to stop the run."""


class RemainingShards:
    """A monitor that passes everything on to another one and keeps which shards are not done."""

    def __init__(self, monitor: Monitor, shards: Sequence[int]) -> None:
        """`shards` are those that the engine is about to run."""
        self._monitor = monitor
        self.shards = list(shards)

    def live(self, counts: dict[str, Counters]) -> None:
        """See `Monitor`."""
        self._monitor.live(counts)

    def done(self, shard: int, counters: Counters) -> None:
        """See `Monitor`."""
        self.shards.remove(shard)
        self._monitor.done(shard, counters)


@dataclass(frozen=True)
class Work:
    """What to run."""

    assignment: Assignment
    """Run directory and attempt."""
    chains: tuple[Chain, ...]
    """One per recipe."""
    placement: Placement
    """Groups and limits."""
    shards: Sequence[int]
    """Shards still to do."""


def make_groups(
    chains: Sequence[Chain], placement: Placement
) -> list[tuple[Group, GroupPlacement]]:
    """The actor groups that have stages to run, in order, each with its placement.

    UsageError for time limits that contradict each other.
    """
    parts = [split(chain, placement) for chain in chains]
    used = [i for i in range(len(placement.groups)) if any(part[i].links for part in parts)]
    groups = []
    for index, i in enumerate(used):
        spec = placement.groups[i]
        group = Group(
            index=index,
            chains=tuple(part[i] for part in parts),
            device=Device(spec.device, spec.dtype, spec.compile),
            micro_batch=spec.micro_batch,
            time_limit_s=spec.time_limit_s,
            last=i == used[-1],
            decode_ahead=spec.decode_ahead,
        )
        _check_limits(group)
        groups.append((group, spec))
    return groups


def _check_limits(group: Group) -> None:
    """UsageError where the watchdog would blame a row for a call that the backend ends itself."""
    for link in (link for chain in group.chains for link in chain.links):
        for backend in link.stage.backends() if isinstance(link.stage, Stage) else ():
            if isinstance(backend, SelfLimited) and backend.call_limit_s >= group.time_limit_s:
                raise UsageError(
                    f"{link.name}: call_limit_s {backend.call_limit_s:g} must be below the "
                    f"placement's time_limit_s, {group.time_limit_s:g} for its group; change one"
                )


def stage_names(group: Group) -> str:
    """The stages of a group for a message: "segmenter, inpainter"."""
    return ", ".join(dict.fromkeys(link.name for chain in group.chains for link in chain.links))


def error_of(failure: Failure) -> UsageError | RunError:
    """What the driver raises for a worker that cannot continue."""
    return UsageError(failure.text) if failure.is_setup else RunError(failure.text)
