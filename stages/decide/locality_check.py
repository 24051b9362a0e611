"""Verifies without a model that a candidate changed where it says it did, and nowhere else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import cv2
import numpy as np
from annotated_types import Ge, Gt, Le
from numpy.typing import NDArray

from schemas.records import Drop, Reason, Region, ScoredCandidate, Verdict, VerifiedCandidate
from stages.base import RecordStage
from stages.pixels import Pixels, decode


@dataclass(frozen=True)
class LocalityCheck(RecordStage[ScoredCandidate, VerifiedCandidate]):
    """Compares the two decoded images, inside the regions and outside.

    Adds the scores "changed_inside" and "changed_outside": shares of the pixels there that differ
    visibly. A candidate without regions may have changed anywhere; then "changed_inside" is over
    the whole image and "changed_outside" is 0.
    """

    visible_delta: Annotated[float, Gt(0)] = 8.0
    """CIE76 colour difference from which a pixel counts as changed. Just noticeable is 2.3; our
    JPEG changes a pixel by less than 8, except for 1 in 200 pixels of a night scene."""
    margin: Annotated[int, Ge(0)] = 12
    """Pixels around the regions that belong to neither side: one JPEG block (8), which carries a
    change up to its edges, and the 4 by which an editor may widen a mask."""
    min_inside: Annotated[float, Ge(0), Le(1)] = 0.15
    """Smallest share of the regions' pixels that must have changed."""
    max_outside: Annotated[float, Ge(0), Le(1)] = 0.001
    """Largest share of the pixels beyond the margin that may have changed."""
    min_anywhere: Annotated[float, Ge(0), Le(1)] = 0.01
    """Smallest share of all pixels that must have changed where a candidate has no regions; a
    mirrored image that is symmetric stays below it."""

    def process_one(self, record: ScoredCandidate) -> Sequence[VerifiedCandidate] | Drop:
        """The verified candidate, or NO_CHANGE_INSIDE or CHANGE_OUTSIDE.

        ValueError if the two images differ in size, or a region is not of that size or is empty.
        """
        candidate = record.candidate
        changed = _changed(
            decode(candidate.chosen_image), decode(candidate.rejected_image), self.visible_delta
        )
        if candidate.regions:
            region = _union(candidate.regions, *changed.shape)
            inside, outside = _shares(changed, region, self.margin)
            where, least = "the region", self.min_inside
        else:
            inside, outside = float(changed.mean()), 0.0
            where, least = "the image", self.min_anywhere
        if inside < least:
            return Drop(
                Reason.NO_CHANGE_INSIDE, f"{inside:.2%} of {where} changed, at least {least:.2%}"
            )
        if outside > self.max_outside:
            return Drop(
                Reason.CHANGE_OUTSIDE,
                f"{outside:.2%} outside the region changed, at most {self.max_outside:.2%}",
            )
        detail = f"{inside:.2%} of {where} changed, {outside:.2%} outside"
        scores = {**record.scores, "changed_inside": inside, "changed_outside": outside}
        return [
            VerifiedCandidate(
                candidate, scores, Verdict(accepted=True, verifier="locality", detail=detail)
            )
        ]


def _changed(chosen: Pixels, rejected: Pixels, visible_delta: float) -> NDArray[np.bool_]:
    """Mask [H, W] of pixels whose colours are at least `visible_delta` apart."""
    if chosen.shape != rejected.shape:
        raise ValueError(
            f"chosen image is {chosen.shape}, rejected image {rejected.shape}; "
            "a generator must keep the size"
        )
    # 8-bit Lab: its rounding of half a unit is invisible, and it is 5 times as fast.
    apart = cv2.absdiff(*(cv2.cvtColor(p, cv2.COLOR_RGB2LAB) for p in (chosen, rejected)))
    # 8-bit L runs to 255, a and b are in their own units.
    scale = np.array([100 / 255, 1, 1], np.float32)
    squares = (np.arange(256, dtype=np.float32)[None, :, None] * scale) ** 2
    total = cv2.transform(cv2.LUT(apart, squares), np.ones((1, 3), np.float32))
    return np.asarray(total >= visible_delta**2)


def _union(regions: Sequence[Region], height: int, width: int) -> NDArray[np.bool_]:
    """Mask [H, W] of pixels of any region; of its box where it has no mask."""
    union = np.zeros((height, width), bool)
    for region in regions:
        if region.mask is None:
            x0, y0, x1, y1 = region.box.pixels(width, height)
            union[y0:y1, x0:x1] = True
            continue
        if (region.mask.height, region.mask.width) != (height, width):
            raise ValueError(
                f'mask of "{region.label}" is {region.mask.height}x{region.mask.width}, '
                f"the image {height}x{width}"
            )
        union |= region.mask.to_array()
    if not union.any():
        raise ValueError(f"the {len(regions)} regions of the candidate have no pixels")
    return union


def _shares(
    changed: NDArray[np.bool_], region: NDArray[np.bool_], margin: int
) -> tuple[float, float]:
    """Changed shares of the region, and of what lies beyond the margin (0 if nothing does)."""
    kernel = np.ones((2 * margin + 1, 2 * margin + 1), np.uint8)
    far = cv2.dilate(region.astype(np.uint8), kernel) == 0
    outside = float(changed[far].mean()) if far.any() else 0.0
    return float(changed[region].mean()), outside
