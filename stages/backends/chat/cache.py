"""Completions kept by the content of their request, in a folder or an object store.

A rerun finds what it asked for before and pays nothing. The key covers all that decides a reply, so
the cache never changes a row, whoever filled it: runs may share one.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TypeVar

from schemas.files import Folder
from stages.backends.chat.replies import Completion
from stages.base import ServiceDown

log = logging.getLogger(__name__)

TRIES = 4
FIRST_PAUSE_S = 0.5

Result = TypeVar("Result")


@dataclass(frozen=True)
class CompletionCache:
    """One JSON file per request, in sub-folders by the first two digits of its key."""

    folder: Folder
    """Where the files are."""

    def get(self, key: str) -> Completion | None:
        """The completion of a request, or None; a damaged file counts as none and is replaced."""
        try:
            data = _patiently(lambda: self.folder.read(_name(key)), self.folder)
        except FileNotFoundError:
            return None
        try:
            return Completion(**json.loads(data))
        except (ValueError, TypeError):
            log.warning("%s is damaged; asking again", self.folder.join(_name(key)))
            return None

    def put(self, key: str, completion: Completion) -> None:
        """Keep a completion. Whole or not at all; two writers of one key write the same."""
        data = json.dumps(asdict(completion)).encode()
        _patiently(lambda: self.folder.write(_name(key), data, durable=False), self.folder)


def _name(key: str) -> str:
    return f"{key[:2]}/{key}.json"


def _patiently(call: Callable[[], Result], folder: Folder) -> Result:
    """The call's result; ServiceDown if the store fails again and again, for no row is to blame."""
    pause = FIRST_PAUSE_S
    for left in range(TRIES - 1, -1, -1):
        try:
            return call()
        except FileNotFoundError:
            raise
        except OSError as error:
            if not left:
                raise ServiceDown(
                    f"the cache of chat replies at {folder.url} failed {TRIES} times: {error}; "
                    "mend it, or run with another cache"
                ) from None
            log.warning("cache of chat replies at %s: %s", folder.url, error)
            time.sleep(pause)
            pause *= 2
    raise AssertionError("the loop above returns or raises")
