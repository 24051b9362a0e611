"""One driver per run directory: a lease file that its holder rewrites every few seconds."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic, sleep
from types import FrameType, TracebackType
from typing import Self, TypedDict

from pipeline.errors import RunError, UsageError
from schemas.files import Folder

log = logging.getLogger(__name__)

LEASE = "lease.json"
HEARTBEAT_S = 10.0
"""Seconds between two heartbeats of the holder."""
_SIGNAL = signal.SIGUSR1
"""What takes the main thread out of its work. Not SIGINT: a shell that starts a run in the
background has it ignored, and the driver would work on."""
STALE_S = 60.0
"""Seconds without a heartbeat after which another machine may take the lease over."""


class _TakenOver(BaseException):  # not an error: nothing on the way may take it for one of its own
    """Takes the main thread out of what it does; `Lease` turns it into a `RunError`."""


class Holder(TypedDict):
    """Content of the lease file."""

    attempt: str
    """Identity of the driver that holds the lease."""
    host: str
    """Name of its machine."""
    pid: int
    """Its process id."""
    started: str | None
    """Start time of the process, in clock ticks since boot; tells it from a later one."""
    seen: str
    """Time of the last heartbeat, ISO 8601."""


@dataclass
class Lease:
    """Held while a driver works in a run directory; use it as a context manager.

    A holder on this machine that is dead is known at once by its process id; one on another
    machine after `STALE_S`. Two drivers started within the same instant can both pass, because
    object stores have no exclusive creation; their parts are equal, and the one that finds the
    other's name in the lease stops, so only work is lost.
    """

    run: Folder
    """The run directory."""
    attempt: str
    """Identity of this driver."""
    stale_s: float = STALE_S
    """See `STALE_S`."""
    _stop: threading.Event = field(default_factory=threading.Event, init=False)
    _thread: threading.Thread | None = field(default=None, init=False)
    _handler: Callable[[int, FrameType | None], object] | int | None = field(
        default=None, init=False
    )
    _main: int = field(default_factory=threading.get_ident, init=False)
    _lost: bool = field(default=False, init=False)

    def __enter__(self) -> Self:
        """Take the lease; UsageError if another driver holds it. Only in the main thread."""
        holder = self._holder()
        if holder is not None and self._alive(holder):
            raise UsageError(
                f"{self.run.url}: another driver works here (process {holder['pid']} on "
                f"{holder['host']}, last seen {holder['seen']}); wait for it, or end it first"
            )
        self._handler = signal.signal(_SIGNAL, self._interrupt)
        self._write()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()
        return self

    def _alive(self, holder: Holder) -> bool:
        """Whether the holder may still be at work; waits for a heartbeat from another host."""
        if holder["host"] == socket.gethostname():
            # The start time tells a process apart from a later one that got the same id.
            started = _started(holder["pid"])
            return started is not None and started == str(holder["started"])
        # By change, not by age: the clocks of two machines may differ.
        log.info("%s held a lease on %s; waiting for a heartbeat", holder["host"], self.run.url)
        deadline = monotonic() + self.stale_s
        while monotonic() < deadline:
            sleep(min(1.0, self.stale_s / 10))
            now = self._holder()
            if now is None:
                return False
            if now != holder:
                return True
        return False

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give the lease back if it is still ours; RunError if another driver took over."""
        try:
            self._stop.set()
            if self._thread is not None:
                self._thread.join()
        except _TakenOver:
            # The block was over by then; the thread ends with its message.
            pass
        finally:
            signal.signal(_SIGNAL, self._handler)
        if self._lost:
            raise RunError(
                f"{self.run.url}: another driver took over, so this one stopped; what it had "
                "finished counts"
            ) from None
        holder = self._holder()
        if holder is not None and holder["attempt"] == self.attempt:
            self.run.delete(LEASE)

    def _interrupt(self, _signum: int, _frame: FrameType | None) -> None:
        if self._lost:
            raise _TakenOver

    def _holder(self) -> Holder | None:
        if not self.run.exists(LEASE):
            return None
        holder: Holder = self.run.read_json(LEASE)
        return holder

    def _write(self) -> None:
        pid = os.getpid()
        self.run.write_json(
            LEASE,
            {
                "attempt": self.attempt,
                "host": socket.gethostname(),
                "pid": pid,
                "started": _started(pid),
                "seen": datetime.now(UTC).isoformat(timespec="seconds"),
            },
        )

    def _keep(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            try:
                holder = self._holder()
                if holder is not None and holder["attempt"] != self.attempt:
                    self._lost = True
                    signal.pthread_kill(self._main, _SIGNAL)
                    return
                self._write()
            except (OSError, ValueError) as error:
                # A store that is out of reach for a moment; the next heartbeat tries again.
                log.warning("the lease could not be renewed: %s", error)


def _started(pid: int) -> str | None:
    """Start time of a live process in clock ticks since boot; None if there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8")
    except OSError:
        return None
    fields_after_name = stat.rpartition(")")[2].split()
    return None if fields_after_name[0] == "Z" else fields_after_name[19]
