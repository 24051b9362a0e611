"""Boxes and region masks in pixels. Knows arrays, not images or files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Box(NamedTuple):
    """Axis-aligned box in pixels, half-open: columns [x0, x1), rows [y0, y1)."""

    x0: float
    y0: float
    x1: float
    y1: float

    @property
    def area(self) -> float:
        """Area in square pixels; 0 for an empty box."""
        return max(0.0, self.x1 - self.x0) * max(0.0, self.y1 - self.y0)

    def clipped(self, width: int, height: int) -> Box:
        """The part of the box inside a `width` x `height` image (empty if there is none)."""
        x0, x1 = (min(max(x, 0.0), float(width)) for x in (self.x0, self.x1))
        y0, y1 = (min(max(y, 0.0), float(height)) for y in (self.y0, self.y1))
        return Box(x0, y0, x1, y1)

    def scaled(self, factor_x: float, factor_y: float) -> Box:
        """The same box in an image resized by these factors."""
        return Box(self.x0 * factor_x, self.y0 * factor_y, self.x1 * factor_x, self.y1 * factor_y)

    def intersection(self, other: Box) -> Box:
        """The overlap of two boxes (empty if there is none)."""
        x0, y0 = max(self.x0, other.x0), max(self.y0, other.y0)
        x1, y1 = min(self.x1, other.x1), min(self.y1, other.y1)
        return Box(x0, y0, max(x0, x1), max(y0, y1))

    def iou(self, other: Box) -> float:
        """Intersection over union, 0 to 1; 0 when both are empty."""
        inter = self.intersection(other).area
        union = self.area + other.area - inter
        return inter / union if union > 0 else 0.0

    def pixels(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Whole-pixel bounds (x0, y0, x1, y1) inside the image that cover the box."""
        box = self.clipped(width, height)
        return (
            int(np.floor(box.x0)),
            int(np.floor(box.y0)),
            int(np.ceil(box.x1)),
            int(np.ceil(box.y1)),
        )


@dataclass(frozen=True, slots=True)
class Mask:
    """A region mask as uncompressed COCO run lengths.

    Runs go down the columns (column-major) and alternate, starting with the number of zeros,
    which may be 0. The runs sum to height * width.
    """

    height: int
    """Rows of the image the mask belongs to, in pixels."""
    width: int
    """Columns of the image the mask belongs to, in pixels."""
    counts: tuple[int, ...]
    """Run lengths in pixels: zeros, ones, zeros, ..."""

    @classmethod
    def from_array(cls, array: NDArray[np.bool_]) -> Mask:
        """Encode a bool [H, W] array."""
        if array.ndim != 2:
            raise ValueError(f"mask must be a [H, W] array, got shape {array.shape}")
        height, width = array.shape
        flat = np.asarray(array, dtype=bool).ravel(order="F")
        if flat.size == 0:
            return cls(height, width, ())
        changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
        edges = np.concatenate(([0], changes, [flat.size]))
        runs = np.diff(edges).tolist()
        counts = (0, *runs) if flat[0] else tuple(runs)
        return cls(height, width, counts)

    def to_array(self) -> NDArray[np.bool_]:
        """Decode to a bool [H, W] array; ValueError if the runs do not fill the image."""
        if sum(self.counts) != self.height * self.width or min(self.counts, default=0) < 0:
            raise ValueError(
                f"mask runs sum to {sum(self.counts)}, but {self.height}x{self.width} "
                f"needs {self.height * self.width}; the row is damaged"
            )
        values = np.arange(len(self.counts)) % 2 == 1
        flat = np.repeat(values, self.counts)
        return flat.reshape((self.height, self.width), order="F")

    @property
    def area(self) -> int:
        """Number of pixels in the region."""
        return sum(self.counts[1::2])
