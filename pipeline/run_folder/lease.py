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
from typing import Self

from pydantic import TypeAdapter, ValidationError

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


@dataclass(frozen=True)
class Holder:
    """Content of the lease file."""

    attempt: str
    """Identity of the driver that holds the lease."""
    host: str
    """Name of its machine."""
    boot: str | None
    """Id of the machine's boot, which two machines never share; None where there is no /proc."""
    pid_namespace: str | None
    """Where its process id counts: two containers of one machine have one each."""
    pid: int
    """Its process id."""
    started: str | None
    """Start time of the process, in clock ticks since boot; tells it from a later one."""
    seen: str
    """Time of the last heartbeat, ISO 8601."""

    @classmethod
    def this_process(cls, attempt: str) -> Holder:
        """Describe the calling driver, seen now."""
        pid = os.getpid()
        return cls(
            attempt=attempt,
            host=socket.gethostname(),
            boot=_boot(),
            pid_namespace=_pid_namespace(),
            pid=pid,
            started=_started(pid),
            seen=datetime.now(UTC).isoformat(timespec="seconds"),
        )

    @classmethod
    def of(cls, content: bytes) -> Holder | None:
        """Who wrote this file; None if it is damaged, or of a version that wrote less."""
        try:
            return _HOLDER.validate_json(content)
        except ValidationError:
            return None

    def is_visible(self) -> bool:
        """Whether the holder's process id means something here.

        A host name is not enough: containers of one image and clones of one disk share it.
        """
        here = (socket.gethostname(), _boot(), _pid_namespace())
        return None not in here and (self.host, self.boot, self.pid_namespace) == here

    def is_running(self) -> bool:
        """Whether the holder's process lives, if it is visible."""
        return self.started is not None and self.started == _started(self.pid)


_HOLDER = TypeAdapter(Holder)


@dataclass
class Lease:
    """Held while a driver works in a run directory; use it as a context manager.

    A holder on this machine that is dead is known at once by its process id; one on another
    machine, in another container, or one whose file is damaged after `STALE_S` without a
    heartbeat. Two drivers that start within the same instant can both pass, for the file is not
    created exclusively; what they write is equal, and the one that finds the other's name in the
    lease stops, so only work is lost.
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
        if (found := self._read()) is not None:
            self._wait_for_death(found)
        self._write()
        self._handler = signal.signal(_SIGNAL, self._interrupt)
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()
        return self

    def _wait_for_death(self, content: bytes) -> None:
        """Return once the holder is known to be dead; UsageError if it is at work."""
        holder = Holder.of(content)
        if holder is not None and holder.is_visible():
            if holder.is_running():
                raise self._taken(content)
            return
        state = f"was written on {holder.host}" if holder else "is damaged"
        log.info(
            "%s of %s %s; waiting %g s for a heartbeat", LEASE, self.run.url, state, self.stale_s
        )
        # By change, not by age: the clocks of two machines may differ.
        deadline = monotonic() + self.stale_s
        while monotonic() < deadline:
            sleep(min(1.0, self.stale_s / 10))
            if (now := self._read()) is None:
                return
            if now != content:
                raise self._taken(now)
        log.warning("%s: no heartbeat for %g s; this driver takes over", self.run.url, self.stale_s)

    def _taken(self, content: bytes) -> UsageError:
        holder = Holder.of(content)
        who = (
            f"process {holder.pid} on {holder.host}, last seen {holder.seen}"
            if holder
            else f"{LEASE} changes, but does not say who it is"
        )
        return UsageError(
            f"{self.run.url}: another driver works here ({who}); wait for it, or end it first"
        )

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
        content = self._read()
        if content is not None and not self._is_anothers(content):
            self.run.delete(LEASE)

    def _interrupt(self, _signum: int, _frame: FrameType | None) -> None:
        if self._lost:
            raise _TakenOver

    def _is_anothers(self, content: bytes) -> bool:
        """Whether the file names another driver; a damaged one names nobody."""
        holder = Holder.of(content)
        return holder is not None and holder.attempt != self.attempt

    def _read(self) -> bytes | None:
        """The file as it is; None if there is none."""
        try:
            return self.run.read(LEASE)
        except FileNotFoundError:
            return None

    def _write(self) -> None:
        self.run.write(LEASE, _HOLDER.dump_json(Holder.this_process(self.attempt), indent=1))

    def _keep(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            try:
                content = self._read()
                if content is not None and self._is_anothers(content):
                    self._lost = True
                    signal.pthread_kill(self._main, _SIGNAL)
                    return
                self._write()
            except (OSError, ValueError) as error:
                # A store that is out of reach for a moment; the next heartbeat tries again.
                log.warning("the lease could not be renewed: %s", error)


def _boot() -> str | None:
    """Id of this machine's boot; None where there is no /proc."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return None


def _pid_namespace() -> str | None:
    """The namespace of this process's id; None where there is no /proc."""
    try:
        return str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        return None


def _started(pid: int) -> str | None:
    """Start time of a live process in clock ticks since boot; None if there is no such process."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8")
    except OSError:
        return None
    fields_after_name = stat.rpartition(")")[2].split()
    return None if fields_after_name[0] == "Z" else fields_after_name[19]
