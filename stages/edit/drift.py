"""Where an edited image differs visibly from its original, and which of it was intended.

Knows arrays. Both images are uint8 [H, W, 3] RGB of one size, registered to each other.

An editor repaints the whole image: every pixel differs a little, edges are softer, the tint shifts.
So colours are compared after a blur (which removes the decoder's noise on single pixels) and
without the tint of the whole image, and only differences over a connected area count.
"""

from __future__ import annotations

import math

import cv2
import numpy as np
from numpy.typing import NDArray

from stages.pixels import Pixels

BoolMask = NDArray[np.bool_]

_BLUR = 0.002
"""Sigma, as a share of the diagonal: 2.6 pixels of an image of a megapixel."""
_OPENING = 0.003
"""Radius below which a difference is a softer edge, not a thing; same unit."""
_CLOSING = 0.01
"""Radius up to which parts of a change belong together; same unit."""


def tint(original: Pixels, edited: Pixels) -> NDArray[np.float32]:
    """[3] levels by which the channels of most of the image differ: their median."""
    apart = edited.astype(np.int16) - original
    levels: NDArray[np.float32] = np.median(apart.reshape(-1, 3), axis=0).astype(np.float32)
    return levels


def without_tint(edited: Pixels, tint: NDArray[np.float32]) -> Pixels:
    """The image with the tint taken off."""
    even: Pixels = np.rint(edited - tint).clip(0, 255).astype(np.uint8)
    return even


def visible_change(original: Pixels, edited: Pixels, delta: float) -> BoolMask:
    """Where (bool [H, W]) colours are at least `delta` apart (CIE76), narrow strips left out.

    A shift of the whole image's tint does not count. ValueError if the sizes differ.
    """
    if original.shape != edited.shape:
        raise ValueError(f"edited image is {edited.shape}, the original {original.shape}")
    even = without_tint(edited, tint(original, edited))
    sigma = max(_BLUR * _diagonal(original), 0.8)
    labs = (
        cv2.cvtColor(
            cv2.GaussianBlur(image, (0, 0), sigma).astype(np.float32) / 255, cv2.COLOR_RGB2LAB
        )
        for image in (original, even)
    )
    first, second = labs
    apart = np.sqrt(np.sum((first - second) ** 2, axis=2))
    return opened(apart >= delta, _pixels(_OPENING, original))


def held_together(changed: BoolMask, margin: float) -> BoolMask:
    """The change with its gaps and holes filled, grown by `margin` (a share of the diagonal)."""
    radius = _pixels(_CLOSING, changed)
    # Padded: nothing beyond the border may close a gap.
    padded = np.pad(changed, radius).astype(np.uint8)
    closed = cv2.morphologyEx(padded, cv2.MORPH_CLOSE, _disc(radius))
    closed = closed[radius : radius + changed.shape[0], radius : radius + changed.shape[1]]
    outlines, _ = cv2.findContours(
        np.ascontiguousarray(closed), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )
    filled = np.zeros(changed.shape, np.uint8)
    cv2.drawContours(filled, outlines, -1, 1, cv2.FILLED)
    return grown(filled > 0, _pixels(margin, changed))


def grown(mask: BoolMask, radius: int) -> BoolMask:
    """The mask, wider by `radius` pixels all around; the time does not depend on the radius."""
    if not mask.any():
        return mask.copy()
    apart = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    wider: BoolMask = apart <= radius
    return wider


def opened(mask: BoolMask, radius: int) -> BoolMask:
    """The mask without the parts that are narrower than twice the radius."""
    # The border is reflected, so that a change cut off by it does not count as narrow.
    padded = np.pad(mask, radius, mode="symmetric").astype(np.uint8)
    done = cv2.morphologyEx(padded, cv2.MORPH_OPEN, _disc(radius))
    kept: BoolMask = done[radius : radius + mask.shape[0], radius : radius + mask.shape[1]] > 0
    return kept


def similarity(original: Pixels, edited: Pixels, where: BoolMask) -> float:
    """Mean structural similarity (Wang et al., 2004) of the grey values over `where`, -1 to 1.

    With the paper's Gaussian window of sigma 1.5; 1 where `where` is empty.
    """
    if not where.any():
        return 1.0
    x, y = (cv2.cvtColor(p, cv2.COLOR_RGB2GRAY).astype(np.float32) for p in (original, edited))

    def local(values: NDArray[np.float32]) -> NDArray[np.float32]:
        blurred: NDArray[np.float32] = cv2.GaussianBlur(values, (11, 11), 1.5)
        return blurred

    mean_x, mean_y = local(x), local(y)
    spread_x, spread_y = local(x * x) - mean_x**2, local(y * y) - mean_y**2
    joint = local(x * y) - mean_x * mean_y
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    top = (2 * mean_x * mean_y + c1) * (2 * joint + c2)
    bottom = (mean_x**2 + mean_y**2 + c1) * (spread_x + spread_y + c2)
    return float((top / bottom)[where].mean())


def _diagonal(array: NDArray[np.generic]) -> float:
    return math.hypot(*array.shape[:2])


def _pixels(share: float, array: NDArray[np.generic]) -> int:
    """A share of the diagonal in whole pixels."""
    return round(share * _diagonal(array))


def _disc(radius: int) -> NDArray[np.uint8]:
    disc: NDArray[np.uint8] = cv2.getStructuringElement(
        cv2.MORPH_ELLIPSE, (2 * radius + 1, 2 * radius + 1)
    )
    return disc
