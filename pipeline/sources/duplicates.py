"""Which ids were seen before, in twelve bytes an id."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

_Run = tuple[NDArray[np.uint64], NDArray[np.uint32]]
"""Sorted digests, and the position of each."""


class SeenIds:
    """Positions by id.

    Ten million ids as Python strings would take a gigabyte. Here an id is a 64-bit digest, kept in
    a few sorted arrays, each more than twice as long as the next, so that adding costs little.
    Digests of different ids may agree, so a position found is a candidate: the caller looks there.
    """

    def __init__(self) -> None:
        self._runs: list[_Run] = []

    def add(self, ids: Sequence[str], positions: Sequence[int]) -> None:
        """Remember these ids."""
        if not ids:
            return
        run = _sorted(_digests(ids), np.asarray(positions, dtype=np.uint32))
        while self._runs and len(self._runs[-1][0]) <= 2 * len(run[0]):
            keys, places = self._runs.pop()
            run = _sorted(np.concatenate((keys, run[0])), np.concatenate((places, run[1])))
        self._runs.append(run)

    def candidates(self, ids: Sequence[str]) -> list[list[int]]:
        """For each id, the positions where it may have been: empty if it certainly was not."""
        found: list[list[int]] = [[] for _ in ids]
        wanted = _digests(ids)
        for keys, places in self._runs:
            first = np.searchsorted(keys, wanted, "left")
            last = np.searchsorted(keys, wanted, "right")
            for index in np.flatnonzero(last > first):
                found[index].extend(places[first[index] : last[index]].tolist())
        return found

    @property
    def num_bytes(self) -> int:
        """Memory held."""
        return sum(keys.nbytes + places.nbytes for keys, places in self._runs)


def _digests(ids: Sequence[str]) -> NDArray[np.uint64]:
    raw = b"".join(blake2b(i.encode(), digest_size=8).digest() for i in ids)
    return np.frombuffer(raw, dtype=np.uint64)


def _sorted(keys: NDArray[np.uint64], places: NDArray[np.uint32]) -> _Run:
    order = np.argsort(keys, kind="stable")
    return keys[order], places[order]
