"""Classical image embedders for machines without a GPU: overall appearance, and local detail.

They stand where SigLIP and DINOv2 stand in MVC (arXiv 2502.13928): one asks whether two images
still show the same scene, the other whether a viewer could tell them apart. Both are plain
functions of the pixels; they know colours and edges, not meaning.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import cv2
import numpy as np
from annotated_types import Ge, Gt, Le
from numpy.typing import NDArray

from stages.base import CpuBackend
from stages.pixels import Pixels

_NEUTRAL = np.array([55.0, 0.0, 0.0], np.float32)
_SPREAD = np.array([22.0, 11.0, 13.0], np.float32)
"""Middle and spread of CIE Lab over ordinary photographs: subtracting the one and dividing by the
other gives each channel its say, and lets the cosine of unrelated images fall to about 0."""


@dataclass(frozen=True)
class ColorLayout(CpuBackend):
    """Overall appearance: where the image is light, dark and coloured, and how much of each.

    The mean of two cosines: of the low-frequency layout in CIE Lab, and of the colour histogram.
    A local edit moves few coefficients of either; another image moves all of them.
    """

    name: Literal["color_layout"] = "color_layout"
    """Selects this backend."""
    grid: Annotated[int, Ge(2), Le(32)] = 8
    """Cells of the layout across and down."""
    bins: Annotated[int, Ge(2), Le(16)] = 6
    """Histogram bins for each of L, a and b."""

    def embed(self, images: Sequence[Pixels]) -> NDArray[np.float32]:
        """[N, 3 grid^2 + 1 + bins^3] unit rows, of N uint8 [H, W, 3] RGB images."""
        return _stack([self._embed_one(image) for image in images])

    def _embed_one(self, image: Pixels) -> NDArray[np.float32]:
        lab = (_small_lab(image, 64) - _NEUTRAL) / _SPREAD
        cells = cv2.resize(lab, (self.grid, self.grid), interpolation=cv2.INTER_AREA)
        # The constant keeps an almost uniform image from being all about its one small object.
        layout = np.append(cells.ravel() / np.sqrt(cells.size), np.float32(0.5))
        histogram = np.sqrt(self._histogram(lab))
        # Without its mean a histogram of few full bins no longer resembles every other one.
        histogram -= histogram.mean()
        return np.concatenate([_unit(layout), _unit(histogram)])

    def _histogram(self, lab: NDArray[np.float32]) -> NDArray[np.float32]:
        """Share of pixels a bin; each pixel is shared between the bins around it.

        Soft bins, because a hard edge between two bins turns codec noise into a jump.
        """
        place = np.clip((lab.reshape(-1, 3) / 2.2 + 1) / 2, 0, 1) * (self.bins - 1)
        low = np.minimum(place.astype(np.int32), self.bins - 2)
        part = place - low
        total = np.zeros(self.bins**3)
        for corner in np.ndindex(2, 2, 2):
            index = low + corner
            weight = np.where(corner, part, 1 - part).prod(axis=1)
            flat = (index[:, 0] * self.bins + index[:, 1]) * self.bins + index[:, 2]
            total += np.bincount(flat, weight, self.bins**3)
        return np.asarray(total / len(place), np.float32)


@dataclass(frozen=True)
class GradientGrid(CpuBackend):
    """Local detail: edge orientations and local colour on a fine grid.

    Colour is taken against the image's median, and edges by their strength, so that whatever
    stands out carries the vector and losing it turns the vector.
    """

    name: Literal["gradient_grid"] = "gradient_grid"
    """Selects this backend."""
    side: Annotated[int, Ge(32), Le(1024)] = 256
    """Images are squeezed to this many pixels across and down before they are measured."""
    grid: Annotated[int, Ge(2), Le(128)] = 32
    """Cells across and down."""
    orientations: Annotated[int, Ge(2), Le(32)] = 8
    """Edge directions over the full circle: dark-to-light differs from light-to-dark."""
    color_weight: Annotated[float, Gt(0)] = 1.0
    """How much a colour difference of one typical spread counts against a typical edge."""

    def embed(self, images: Sequence[Pixels]) -> NDArray[np.float32]:
        """[N, grid^2 (orientations + 3) + 1] unit rows, of N uint8 [H, W, 3] RGB images."""
        return _stack([self._embed_one(image) for image in images])

    def _embed_one(self, image: Pixels) -> NDArray[np.float32]:
        lab = _small_lab(image, self.side)
        color = cv2.resize(lab, (self.grid, self.grid), interpolation=cv2.INTER_AREA)
        color = (color - np.median(color.reshape(-1, 3), axis=0)) / _SPREAD
        edges = np.sqrt(self._edges(np.ascontiguousarray(lab[:, :, 0])))
        # The small constant is the whole vector of an image without any content.
        parts = (self.color_weight * color.ravel(), edges.ravel(), np.array([0.1]))
        return _unit(np.concatenate(parts).astype(np.float32))

    def _edges(self, light: NDArray[np.float32]) -> NDArray[np.float32]:
        """[orientations, grid, grid] mean slope of L towards each direction, in units of 10."""
        slope_x = cv2.Sobel(light, cv2.CV_32F, 1, 0, scale=1 / 80)
        slope_y = cv2.Sobel(light, cv2.CV_32F, 0, 1, scale=1 / 80)
        planes = []
        for k in range(self.orientations):
            angle = 2 * np.pi * k / self.orientations
            toward = slope_x * np.float32(np.cos(angle)) + slope_y * np.float32(np.sin(angle))
            np.maximum(toward, 0, out=toward)
            shape = (self.grid, self.grid)
            planes.append(cv2.resize(toward, shape, interpolation=cv2.INTER_AREA))
        return np.stack(planes)


def _small_lab(image: Pixels, side: int) -> NDArray[np.float32]:
    """The image squeezed to [side, side, 3], in CIE Lab (L 0 to 100)."""
    small = cv2.resize(image, (side, side), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(small.astype(np.float32) / 255, cv2.COLOR_RGB2LAB))


def _unit(vector: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(vector / np.sqrt(np.sum(vector.astype(np.float64) ** 2)), np.float32)


def _stack(rows: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.stack([_unit(row) for row in rows])
