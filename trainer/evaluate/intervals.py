"""95 % intervals for shares and means over rows that share source images.

Pairs of one source image are not independent: whatever makes the image easy makes all of them
easy. So images are drawn again, with all their rows, not rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import sqrt

import numpy as np
from numpy.typing import NDArray

from schemas.ids import row_seed

DRAWS = 2000
"""Bootstrap draws; the end of an interval then wobbles by about a tenth of its width."""
_Z = 1.959964
"""Two-sided 95 % of a normal distribution."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number and how sure it is."""

    value: float
    """The share or mean over the rows."""
    low: float | None
    """Lower end of the 95 % interval; None where a mean is over one image, which bounds nothing."""
    high: float | None
    """Upper end, likewise."""
    rows: int
    """Rows that it is over."""
    images: int
    """Source images that they come from: what the interval's width depends on."""
    method: str
    """`bootstrap by image` (percentiles); for shares `wilson over images` where all rows agree and
    a bootstrap could only repeat the one value, or where there is one image; for means of one image
    `none`."""


def share(hits: NDArray[np.float64], images: NDArray[np.int64]) -> Estimate:
    """A share of rows: `hits` [N] in {0, 0.5, 1}, `images` [N] the number of each row's image."""
    sums, counts = _by_image(hits, images)
    value = float(hits.mean())
    if len(counts) > 1 and 0 < value < 1:
        low, high = _bootstrap(sums, counts)
        return Estimate(value, low, high, len(hits), len(counts), "bootstrap by image")
    low, high = wilson(value, len(counts))
    return Estimate(value, low, high, len(hits), len(counts), "wilson over images")


def mean(values: NDArray[np.float64], images: NDArray[np.int64]) -> Estimate:
    """A mean over rows, as `share`; with one image there is no interval."""
    sums, counts = _by_image(values, images)
    value = float(values.mean())
    if len(counts) == 1:
        return Estimate(value, None, None, len(values), 1, "none")
    low, high = _bootstrap(sums, counts)
    return Estimate(value, low, high, len(values), len(counts), "bootstrap by image")


def wilson(value: float, number: int) -> tuple[float, float]:
    """Wilson's score interval of a share over `number` independent things."""
    z2 = _Z * _Z
    middle = (value + z2 / (2 * number)) / (1 + z2 / number)
    half = _Z / (1 + z2 / number) * sqrt(value * (1 - value) / number + z2 / (4 * number * number))
    return max(0.0, middle - half), min(1.0, middle + half)


def _by_image(
    values: NDArray[np.float64], images: NDArray[np.int64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sum and number of the rows of each image."""
    if len(values) == 0:
        raise ValueError("an interval needs at least one row, got none")
    _, place = np.unique(images, return_inverse=True)
    sums: NDArray[np.float64] = np.bincount(place, weights=values).astype(np.float64)
    return sums, np.bincount(place).astype(np.float64)


def _bootstrap(sums: NDArray[np.float64], counts: NDArray[np.float64]) -> tuple[float, float]:
    """Percentiles of the mean over rows when images are drawn with replacement."""
    generator = np.random.Generator(np.random.PCG64(row_seed(0, "intervals", "bootstrap")))
    number = len(counts)
    found = np.empty(DRAWS)
    for draw in range(DRAWS):
        times = np.bincount(generator.integers(number, size=number), minlength=number)
        found[draw] = (times @ sums) / (times @ counts)
    low, high = np.percentile(found, [2.5, 97.5])
    return float(low), float(high)
