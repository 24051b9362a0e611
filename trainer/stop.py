"""A wish to stop, heard between steps: pre-emption ends a run with a checkpoint."""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT)
"""What clusters send before they kill, and Ctrl-C. A second one ends the process at once."""


@contextmanager
def wished() -> Iterator[Callable[[], bool]]:
    """While inside, `wished()` says whether one of the signals has come.

    In another thread than the main one (Ray Train's workers) signals cannot be caught; it then
    stays False, and a kill costs the steps since the last checkpoint.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    heard = threading.Event()

    def hear(number: int, frame: FrameType | None) -> None:  # noqa: ARG001  a handler's signature
        log.warning("%s: stopping after this step", signal.Signals(number).name)
        heard.set()
        for one in SIGNALS:
            signal.signal(one, signal.SIG_DFL)

    before = {one: signal.signal(one, hear) for one in SIGNALS}
    try:
        yield heard.is_set
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
