"""Watching a Ray Data stream from the driver: live counts, failures, and that something moves."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Mapping, Sequence
from time import monotonic
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self

from pipeline.engine.placement import GroupPlacement, Placement, fits
from pipeline.engine.work import error_of, stage_names
from pipeline.errors import RunError, UsageError
from workers.counters import Counters
from workers.worker import Group

if TYPE_CHECKING:
    from workers.actor import Seen

log = logging.getLogger(__name__)

LOOK_S = 1.0
"""Seconds between two looks at the board."""

SILENT_S = 30.0
"""A group of which no actor has given a sign of life for so long has none that lives."""

_SIGNAL = signal.SIGUSR2
"""What takes the main thread out of its wait. Not SIGINT, which a shell that starts a run in the
background has switched off."""


class NodesLostError(RuntimeError):
    """Nodes are gone, a group is left without any actor, and the pools do not fit what is left."""


class _Interrupt(BaseException):  # not an error: it carries the watch's verdict
    """Takes the main thread out of its wait for the next row."""


class _Board(Protocol):
    """The handle of a `workers.actor.Board`."""

    look: Any


class _Told(Protocol):
    """Who is told of live counts, and knows what is left to do."""

    shards: list[int]

    def live(self, counts: dict[str, Counters]) -> None:
        """Latest counts of shards in work."""


class Watch:
    """Looks at the board every second, in a thread, while the block runs in the main thread.

    Ends the block with what an actor reported; with NodesLostError; or with RunError when nothing
    has moved for the placement's `stall_limit_s`. Without it a run can wait for ever: Ray Data
    retries without end, and a pool never gives its place up.
    """

    def __init__(
        self,
        board: _Board,
        told: _Told,
        pools: Sequence[tuple[Group, GroupPlacement, int]],
        placement: Placement,
    ) -> None:
        """`pools` are the groups with their placement and size."""
        self._board, self._told, self._pools, self._placement = board, told, pools, placement
        self._verdict: Exception | None = None
        self._state: object = None
        self._moved = self._begun = self._warned = monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._handler: Any = None
        self._main = threading.get_ident()

    def __enter__(self) -> Self:
        """Start to look; only in the main thread, which is the one that can be interrupted."""
        self._handler = signal.signal(_SIGNAL, self._interrupt)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        """Stop; raises the verdict if it interrupted the block."""
        try:
            self._stop.set()
            self._thread.join()
        except _Interrupt:
            # The block was over by then.
            self._thread.join()
        finally:
            signal.signal(_SIGNAL, self._handler)
        if kind is None or not issubclass(kind, _Interrupt):
            return False
        # If it came while the very last row was being counted, all is done in spite of it.
        if self._told.shards:
            assert self._verdict is not None
            raise self._verdict from None
        return True

    def _interrupt(self, _signum: int, _frame: FrameType | None) -> None:
        if self._verdict is not None:
            raise _Interrupt

    def _run(self) -> None:
        while not self._stop.wait(LOOK_S):
            if (seen := self._look()) is None:
                continue
            self._told.live({key: Counters.from_json(v) for key, v in seen.counts.items()})
            self._verdict = self._judge(seen)
            if self._verdict is not None:
                # A real signal: the wait for a row is one on a lock, which nothing else ends.
                signal.pthread_kill(self._main, _SIGNAL)
                return

    def ask(self) -> UsageError | RunError | None:
        """What an actor reported as the reason why it cannot go on, if one did."""
        seen = self._look()
        return None if seen is None or seen.failure is None else error_of(seen.failure)

    def _look(self) -> Seen | None:
        import ray  # noqa: PLC0415

        try:
            seen: Seen = ray.get(self._board.look.remote(), timeout=5)
        except ray.exceptions.RayError:
            # Out of reach for a moment.
            return None
        return seen

    def _judge(self, seen: Seen) -> Exception | None:
        """Why the run must not go on as it does, if it must not."""
        if seen.failure is not None:
            return error_of(seen.failure)
        now = monotonic()
        state = (len(self._told.shards), seen.counts)
        if state != self._state:
            self._state, self._moved = state, now
        silent = self._silent(seen, now)
        if not silent:
            self._warned = now
        elif now - self._warned > SILENT_S:
            self._warned = now + 10 * SILENT_S
            log.warning("%s", self._waiting(silent))
        if self._placement.autoscale:
            # Machines may take hours to come: their absence is no stall.
            if silent:
                self._moved = now
        elif silent and now - self._moved > SILENT_S and not self._room():
            return NodesLostError(f"nodes were lost: {self._waiting(silent)}")
        still_s = now - self._moved
        if still_s <= self._placement.stall_limit_s:
            return None
        why = self._waiting(silent) if silent else "every group has an actor that lives"
        return RunError(
            f"nothing has moved for {still_s:.0f} s (stall_limit_s of the placement): {why}; the "
            "same command goes on from here"
        )

    def _silent(self, seen: Seen, now: float) -> list[tuple[Group, GroupPlacement]]:
        """Groups with shards to come of which no actor lives."""
        quiet: Mapping[int, float] = seen.quiet_s
        places = [key.partition("-") for key in seen.counts]
        return [
            (group, spec)
            for group, spec, _ in self._pools
            if quiet.get(group.index, now - self._begun) > SILENT_S
            # A pool is let go once the last shard has passed it.
            and len({shard for shard, _, index in places if int(index) > group.index})
            < len(self._told.shards)
        ]

    def _room(self) -> bool:
        """Whether all pools fit the cluster as it is now."""
        import ray  # noqa: PLC0415

        there = ray.cluster_resources()
        return fits(
            [spec for _, spec, _ in self._pools],
            [size for _, _, size in self._pools],
            there.get("CPU", 0),
            there.get("GPU", 0),
        )

    def _waiting(self, silent: Sequence[tuple[Group, GroupPlacement]]) -> str:
        import ray  # noqa: PLC0415

        there, free = ray.cluster_resources(), ray.available_resources()
        groups = "; ".join(
            f"({stage_names(group)}), which takes {spec.num_cpus:g} CPU and {spec.num_gpus:g} GPU"
            for group, spec in silent
        )
        return (
            f"no actor is up of {groups}; of the cluster's {there.get('CPU', 0):g} CPUs and "
            f"{there.get('GPU', 0):g} GPUs {free.get('CPU', 0):g} and {free.get('GPU', 0):g} are "
            "free"
        )
