"""Which images are paired: exact nearest neighbours in blocks, each pair chosen at most once.

Knows vectors and ids, not files or Ray.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

QUERY_ROWS = 1024
"""Images compared with all others at once: a block of similarities is 4 MB wide."""
BASE_ROWS = 1024
"""Images of the other side of a block."""

NONE = -1
"""Index that means "no neighbour"."""


class Window(NamedTuple):
    """Which similarities make a pair."""

    low: float
    """Below this cosine the images have nothing in common."""
    high: float
    """Above this cosine they are the same image, or nearly."""


@dataclass(frozen=True)
class Neighbours:
    """The best neighbours of some images."""

    indices: NDArray[np.int64]
    """[Q, K] image numbers, most similar first, filled up with NONE."""
    similarities: NDArray[np.float32]
    """[Q, K] their cosines."""


def nearest(
    vectors: NDArray[np.float32],
    folds: NDArray[np.int8],
    block: tuple[int, int],
    count: int,
    window: Window,
) -> Neighbours:
    """The `count` most similar images within the window, of the images [block).

    `vectors` is [N, D] with rows of unit length, of distinct images; `folds` is [N]. An image's
    neighbours are in the same fold and never itself. Of equal similarities the lower number comes
    first.
    """
    start, stop = block
    queries = vectors[start:stop]
    best = np.full((stop - start, count), -np.inf, np.float32)
    who = np.full((stop - start, count), NONE, np.int64)
    for low in range(0, len(vectors), BASE_ROWS):
        high = min(low + BASE_ROWS, len(vectors))
        cosines = queries @ vectors[low:high].T
        numbers = np.arange(low, high)
        allowed = (cosines >= window.low) & (cosines <= window.high)
        allowed &= folds[start:stop, None] == folds[None, low:high]
        allowed &= np.arange(start, stop)[:, None] != numbers[None]
        cosines = np.where(allowed, cosines, -np.inf).astype(np.float32)
        best, who = _merged(best, who, cosines, np.broadcast_to(numbers, cosines.shape), count)
    who[best == -np.inf] = NONE
    return Neighbours(who, best)


def _merged(
    best: NDArray[np.float32],
    who: NDArray[np.int64],
    cosines: NDArray[np.float32],
    numbers: NDArray[np.int64],
    count: int,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    values = np.concatenate([best, cosines], axis=1)
    indices = np.concatenate([who, numbers], axis=1)
    # Stable, and earlier blocks stand first: of equal values the lower number wins.
    order = np.argsort(-values, axis=1, kind="stable")[:, :count]
    return np.take_along_axis(values, order, axis=1), np.take_along_axis(indices, order, axis=1)


class Match(NamedTuple):
    """The seed that another is paired with."""

    seed: int
    """Its number."""
    similarity: float
    """Cosine of the two images."""


def choose(
    image_of: Sequence[int], neighbours: Callable[[int], Iterable[tuple[int, float]]]
) -> list[Match | None]:
    """A match for every seed, in order: its most similar image that it is not paired with yet.

    `image_of` gives the image number of each seed; `neighbours` an image's neighbours, best first.
    No two images are paired twice, in either order. Of the seeds about the matched image, the first
    is taken.
    """
    first_seed: dict[int, int] = {}
    for seed, image in enumerate(image_of):
        first_seed.setdefault(image, seed)
    paired: set[tuple[int, int]] = set()
    matches: list[Match | None] = []
    for image in image_of:
        match = None
        for other, similarity in neighbours(image):
            key = (min(image, other), max(image, other))
            if key not in paired:
                paired.add(key)
                match = Match(first_seed[other], similarity)
                break
        matches.append(match)
    return matches
