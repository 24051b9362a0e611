"""Supervises a Ray Data stream from the driver: live counts, failures, stalls, lost nodes.

Knows the status actor and the placement; does not start or stop the stream's actors.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from time import monotonic
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Self

from pipeline.engine.placement import GroupPlacement, Placement, fits
from pipeline.engine.work import RemainingShards, error_of, stage_names
from pipeline.errors import RunError, UsageError
from workers.counters import Counters
from workers.worker import Group

if TYPE_CHECKING:
    from ray.actor import ActorHandle

    from workers.actor import StatusActor, StreamStatus

log = logging.getLogger(__name__)

POLL_S = 1.0
"""Seconds between two reads of the status actor."""

SILENT_S = 30.0
"""A group without a heartbeat for so long has no living actor."""

_SIGNAL = signal.SIGUSR2
"""What takes the main thread out of its wait. Not SIGINT, which a shell that starts a run in the
background has switched off."""


class NodesLostError(RuntimeError):
    """Nodes are gone, a group has no living actor, and the pools do not fit what is left."""


class _Interrupt(BaseException):  # not an error: it carries the supervisor's verdict
    """Takes the main thread out of its wait for the next row."""


class StreamSupervisor:
    """Reads the status actor every second, in a thread, while the block runs in the main thread.

    Ends the block with what an actor reported; with NodesLostError; or with RunError when nothing
    has moved for the placement's `stall_limit_s`. Without it a run can wait for ever: Ray Data
    retries without end, and a pool never gives its resources up.
    """

    def __init__(
        self,
        status: ActorHandle[StatusActor],
        remaining: RemainingShards,
        pools: Sequence[tuple[Group, GroupPlacement, int]],
        placement: Placement,
    ) -> None:
        """`pools` are the groups with their placement and size."""
        self._status, self._remaining = status, remaining
        self._pools, self._placement = pools, placement
        self._verdict: Exception | None = None
        self._state: object = None
        self._moved = self._begun = self._warned = monotonic()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)
        self._handler: Callable[[int, FrameType | None], object] | int | None = None
        self._main = threading.get_ident()

    def __enter__(self) -> Self:
        """Start; only in the main thread, which is the one that can be interrupted."""
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
        if self._remaining.shards:
            assert self._verdict is not None
            raise self._verdict from None
        return True

    def _interrupt(self, _signum: int, _frame: FrameType | None) -> None:
        if self._verdict is not None:
            raise _Interrupt

    def _run(self) -> None:
        while not self._stop.wait(POLL_S):
            if (status := self._poll()) is None:
                continue
            self._remaining.live({key: Counters.from_json(v) for key, v in status.counts.items()})
            self._verdict = self._judge(status)
            if self._verdict is not None:
                # A real signal: the wait for a row is one on a lock, which nothing else ends.
                signal.pthread_kill(self._main, _SIGNAL)
                return

    def failure(self) -> UsageError | RunError | None:
        """Why an actor cannot continue, if one reported that."""
        status = self._poll()
        return None if status is None or status.failure is None else error_of(status.failure)

    def _poll(self) -> StreamStatus | None:
        import ray  # noqa: PLC0415

        try:
            status: StreamStatus = ray.get(self._status.status.remote(), timeout=5)
        except ray.exceptions.RayError:
            # Out of reach for a moment.
            return None
        return status

    def _judge(self, status: StreamStatus) -> Exception | None:
        """Why the run must be stopped, if it must."""
        if status.failure is not None:
            return error_of(status.failure)
        now = monotonic()
        state = (len(self._remaining.shards), status.counts)
        if state != self._state:
            self._state, self._moved = state, now
        silent = self._silent(status, now)
        if not silent:
            self._warned = now
        elif now - self._warned > SILENT_S:
            self._warned = now + 10 * SILENT_S
            log.warning("%s", self._waiting(silent))
        if self._placement.autoscale:
            # Machines may take hours to come: their absence is no stall.
            if silent:
                self._moved = now
        elif silent and now - self._moved > SILENT_S and not self._fits():
            return NodesLostError(f"nodes were lost: {self._waiting(silent)}")
        still_s = now - self._moved
        if still_s <= self._placement.stall_limit_s:
            return None
        why = self._waiting(silent) if silent else "every group has a living actor"
        return RunError(
            f"nothing has moved for {still_s:.0f} s (stall_limit_s of the placement): {why}; the "
            "same command resumes the run"
        )

    def _silent(self, status: StreamStatus, now: float) -> list[tuple[Group, GroupPlacement]]:
        """Groups with shards to come and no living actor."""
        quiet: Mapping[int, float] = status.quiet_s
        places = [key.partition("-") for key in status.counts]
        return [
            (group, spec)
            for group, spec, _ in self._pools
            if quiet.get(group.index, now - self._begun) > SILENT_S
            # A pool ends once the last shard has passed it.
            and len({shard for shard, _, index in places if int(index) > group.index})
            < len(self._remaining.shards)
        ]

    def _fits(self) -> bool:
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
