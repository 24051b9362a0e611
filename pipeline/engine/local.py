"""The engine without Ray: one worker process on this machine."""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait

from pipeline.engine.placement import Placement
from pipeline.engine.work import Monitor, Work, error_of, make_groups
from pipeline.errors import RunError, UsageError
from workers.failure import failure_of
from workers.worker import Assignment, Group, ShardWorker

log = logging.getLogger(__name__)

_SPAWN = multiprocessing.get_context("spawn")

MAX_SILENT_DEATHS = 6
"""A row that kills its process is found after three deaths; more have another cause."""

OURS = ("pipeline", "workers", "stages", "schemas")
"""Packages of which all log records are passed on; of others, warnings and errors."""


def run_local(work: Work, monitor: Monitor) -> None:
    """Run every shard in one worker process, one after the other; all stages fused.

    The worker is a process of its own, so that a row that kills or hangs it is found as it is on
    Ray: this process sees the death, starts another worker, and the in-flight log names the row.
    Micro-batch and time limit are those of the placement's first group. Raises UsageError for a
    placement of several devices and for a stage that cannot be opened because something is
    missing, and RunError for whatever else stopped the worker.
    """
    specs = [spec for _, spec in make_groups(work.chains, work.placement)]
    if own := [package for spec in specs for package in spec.pip]:
        raise UsageError(
            f"placement {work.placement.name} asks for packages of a group's own "
            f"({', '.join(own)}), which only Ray can give; leave --local out"
        )
    if len({spec.device for spec in specs}) > 1:
        raise UsageError(
            f"placement {work.placement.name} puts stages on several devices; without Ray all run "
            "on one: give another --placement, or leave --local out"
        )
    first = specs[0].model_copy(update={"stages": "rest"})
    ((group, _),) = make_groups(work.chains, Placement(name="local", groups=[first]))
    left = list(work.shards)
    silent_deaths = 0
    while left:
        here, there = _SPAWN.Pipe(duplex=False)
        worker = _SPAWN.Process(target=_work_here, args=(work.assignment, group, left, there))
        worker.start()
        there.close()
        try:
            heard = _listen(here, monitor, left)
        finally:
            here.close()
            worker.terminate()
            worker.join()
        silent_deaths = 0 if heard else silent_deaths + 1
        if left and silent_deaths == MAX_SILENT_DEATHS:
            raise RunError(
                f"the worker process died {silent_deaths} times without finishing a row, last "
                f"with exit status {worker.exitcode}; see what it printed above"
            )


def _listen(pipe: Connection, monitor: Monitor, left: list[int]) -> bool:
    """Pass on the worker's messages until it ends or dies; whether it counted anything."""
    heard = False
    while True:
        try:
            message = pipe.recv()
        except EOFError:
            return heard
        match message:
            case ("live", key, counters):
                heard = True
                monitor.live({key: counters})
            case ("done", shard, counters):
                heard = True
                left.remove(shard)
                monitor.done(shard, counters)
            case ("log", name, level, text):
                logging.getLogger(name).log(level, "%s", text)
            case ("failed", failure, trace):
                log.debug("in the worker process:\n%s", trace)
                raise error_of(failure)


class _Sender(logging.Handler):
    """Sends messages and log records to the driver, which prints them above the live table."""

    def __init__(self, pipe: Connection) -> None:
        super().__init__()
        self._pipe = pipe
        # Several threads send: the one that works, and the watchdog.
        self._turn = threading.Lock()

    def send(self, *message: object) -> None:
        """Send one message, whole."""
        with self._turn:
            self._pipe.send(message)

    def emit(self, record: logging.LogRecord) -> None:
        """See `logging.Handler`."""
        if record.levelno >= logging.WARNING or record.name.partition(".")[0] in OURS:
            self.send("log", record.name, record.levelno, self.format(record))


def _work_here(
    assignment: Assignment, group: Group, shards: Sequence[int], pipe: Connection
) -> None:
    """The worker process of `run_local`."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    sender = _Sender(pipe)
    logging.basicConfig(level=logging.INFO, handlers=[sender], format="%(message)s")
    logging.captureWarnings(capture=True)
    try:
        worker = ShardWorker(
            assignment, group, lambda shard, g, c: sender.send("live", f"{shard}-{g}", c)
        )
        for shard in shards:
            state = worker.first(shard)
            worker.process(state)
            sender.send("done", shard, state.counters)
        worker.close()
    except Exception as error:  # noqa: BLE001  # it is raised again in the driver
        sender.send("failed", failure_of(error), traceback.format_exc())


def _end_with_parent() -> None:
    """A driver that was killed must not leave a worker behind."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
