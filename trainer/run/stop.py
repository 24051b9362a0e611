"""Requests to a run between two steps: write a checkpoint, or stop."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from types import FrameType

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT)
"""What clusters send before they kill, and Ctrl-C. A second one ends the process at once."""


class StopRequest(IntEnum):
    """What to do after the step; the strongest request of all processes counts."""

    GO_ON = 0
    """Continue."""
    SAVE = 1
    """Write a checkpoint and continue: this machine may be pre-empted."""
    STOP = 2
    """Write a checkpoint and end, to be resumed by the same command."""


StopCheck = Callable[[], StopRequest]
"""Asked once a step on every process."""


def nothing() -> StopRequest:
    """Never request anything."""
    return StopRequest.GO_ON


@contextmanager
def by_signal() -> Iterator[StopCheck]:
    """Inside, a signal requests a stop. Call it in the main thread only."""
    heard = threading.Event()

    def hear(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  a handler's signature
        log.warning("%s: stopping after this step", signal.Signals(number).name)
        heard.set()
        for one in SIGNALS:
            signal.signal(one, signal.SIG_DFL)

    before = {one: signal.signal(one, hear) for one in SIGNALS}
    try:
        yield lambda: StopRequest.STOP if heard.is_set() else StopRequest.GO_ON
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
