"""Segmentation from a box without a model: GrabCut. Knows pixels and boxes, not records.

Rother, Kolmogorov, Blake: "GrabCut", SIGGRAPH 2004. Its graph cut takes seconds on a large crop, so
it runs on a reduced one; a guided filter (He, Sun, Tang, ECCV 2010) then fits the edge to the
image at full size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import cv2
import numpy as np
from annotated_types import Ge, Le
from numpy.typing import NDArray

from schemas.geometry import Box
from stages.base import CpuBackend
from stages.pixels import Pixels

BoolMask = NDArray[np.bool_]

MIN_WORKING_SIDE = 8
"""Below this many pixels a side a crop holds too few samples for two colour models."""

COLLAPSED = 0.1
"""A cut that takes less than this share of its box has lost the object to the background."""


@dataclass(frozen=True)
class GrabCut(CpuBackend):
    """Separates what fills a box from what surrounds it, by colour."""

    name: Literal["grabcut"] = "grabcut"
    """Which backend this is."""
    working_side: Annotated[int, Ge(32), Le(2048)] = 224
    """Longer side in pixels that the crop is reduced to for the graph cut; time grows with it."""
    margin: Annotated[float, Ge(0.02), Le(2)] = 0.25
    """Surroundings taken as sure background, as a share of the box's longer side."""
    iterations: Annotated[int, Ge(1), Le(20)] = 5
    """Rounds of fitting the colour models and cutting."""
    keep_share: Annotated[float, Ge(0), Le(1)] = 0.1
    """Separate parts smaller than this share of the largest part are let go."""
    hole_share: Annotated[float, Ge(0), Le(1)] = 0.03
    """Holes smaller than this share of the region are filled."""

    def segment(
        self, images: Sequence[Pixels], boxes: Sequence[Sequence[Box]]
    ) -> list[list[BoolMask]]:
        """One bool [H, W] mask per box of each image, never reaching outside its box.

        A box without surroundings in the image, or one around nothing but a single colour, comes
        back whole; a box outside the image comes back empty.
        """
        return [
            [self._segment(image, box) for box in of_image]
            for image, of_image in zip(images, boxes, strict=True)
        ]

    def _segment(self, image: Pixels, box: Box) -> BoolMask:
        height, width = image.shape[:2]
        mask = np.zeros((height, width), dtype=bool)
        x0, y0, x1, y1 = box.pixels(width, height)
        if x1 <= x0 or y1 <= y0:
            return mask
        pad = max(4, round(self.margin * max(x1 - x0, y1 - y0)))
        left, top = max(0, x0 - pad), max(0, y0 - pad)
        crop = image[top : min(height, y1 + pad), left : min(width, x1 + pad)]
        inner = (slice(y0 - top, y1 - top), slice(x0 - left, x1 - left))
        mask[y0:y1, x0:x1] = self._cut(crop, inner)[inner]
        return mask

    def _cut(self, crop: Pixels, inner: tuple[slice, slice]) -> BoolMask:
        """The mask of what fills `inner` in a crop, at the crop's own size."""
        rows, cols = crop.shape[:2]
        scale = min(1.0, self.working_side / max(rows, cols))
        size = (max(1, round(cols * scale)), max(1, round(rows * scale)))
        small = cv2.resize(crop, size, interpolation=cv2.INTER_AREA)
        inside = np.zeros((rows, cols), dtype=bool)
        inside[inner] = True
        trimap = _trimap(inside, size)
        sure, maybe = trimap == cv2.GC_BGD, trimap != cv2.GC_BGD
        if (
            min(size) < MIN_WORKING_SIDE
            or not sure.any()
            or not maybe.any()
            or np.ptp(small.reshape(-1, 3), axis=0).max() == 0
        ):
            return inside
        taken = self._converged(small, trimap.copy())
        if taken.sum() < COLLAPSED * maybe.sum():
            # Surroundings of the same colours swallow the whole box; a sure core holds against it.
            taken = self._converged(small, _with_core(trimap))
        if not taken.any():
            return np.zeros((rows, cols), dtype=bool)
        return _fitted_edge(crop, taken) & inside

    def _converged(self, small: Pixels, trimap: NDArray[np.uint8]) -> BoolMask:
        """What the iterated cut takes, without crumbs. Overwrites the trimap."""
        # GrabCut's k-means draws from OpenCV's global generator.
        cv2.setRNGSeed(0)
        models = np.zeros((1, 65)), np.zeros((1, 65))
        cv2.grabCut(small, trimap, None, *models, self.iterations, cv2.GC_INIT_WITH_MASK)
        taken = (trimap == cv2.GC_FGD) | (trimap == cv2.GC_PR_FGD)
        return _without_small_parts(taken, self.keep_share, self.hole_share)


def _trimap(inside: BoolMask, size: tuple[int, int]) -> NDArray[np.uint8]:
    """GrabCut's starting labels: outside is sure background, inside maybe foreground."""
    small = cv2.resize(inside.astype(np.uint8) * 255, size, interpolation=cv2.INTER_AREA)
    trimap: NDArray[np.uint8] = np.where(small >= 128, cv2.GC_PR_FGD, cv2.GC_BGD).astype(np.uint8)
    return trimap


def _with_core(trimap: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The trimap with an ellipse of half the box's size in its middle as sure foreground."""
    rows, cols = np.nonzero(trimap != cv2.GC_BGD)
    center = (int(cols.min() + cols.max()) // 2, int(rows.min() + rows.max()) // 2)
    axes = (max(1, int(np.ptp(cols)) // 4), max(1, int(np.ptp(rows)) // 4))
    seeded = trimap.copy()
    cv2.ellipse(seeded, center, axes, 0, 0, 360, cv2.GC_FGD, cv2.FILLED)
    return seeded


def _without_small_parts(mask: BoolMask, keep_share: float, hole_share: float) -> BoolMask:
    """The parts that matter, with their pinholes closed."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(
        mask.astype(np.uint8), connectivity=8
    )
    areas = stats[:, cv2.CC_STAT_AREA].copy()
    areas[0] = 0
    keep = areas >= max(1, keep_share * areas.max()) if count > 1 else np.zeros(count, dtype=bool)
    kept: BoolMask = keep[labels]
    limit = hole_share * kept.sum()
    count, labels, stats, _ = cv2.connectedComponentsWithStats(
        (~kept).astype(np.uint8), connectivity=4
    )
    fill = stats[:, cv2.CC_STAT_AREA] <= limit
    fill[0] = False  # label 0 is the region itself
    filled: BoolMask = kept | fill[labels]
    return filled


def _fitted_edge(crop: Pixels, taken: BoolMask) -> BoolMask:
    """A reduced mask at the crop's size, its edge drawn to the image's nearest edge."""
    rows, cols = crop.shape[:2]
    soft = cv2.resize(taken.astype(np.float32), (cols, rows), interpolation=cv2.INTER_LINEAR)
    ratio = max(rows, cols) / max(taken.shape)
    radius = max(2, round(2 * ratio))
    fitted = cv2.ximgproc.guidedFilter(crop, soft, radius, (0.04 * 255) ** 2)
    # The filter may speak only near the cut: far from it the cut is right or wrong as a whole.
    near = cv2.blur(soft, (2 * radius + 1, 2 * radius + 1))
    mask: BoolMask = np.where((near > 0.02) & (near < 0.98), fitted, soft) > 0.5
    return mask
