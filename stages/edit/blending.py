"""Blends a changed part into the untouched rest of an image. Knows arrays."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from stages.pixels import Pixels


def blended(image: Pixels, fill: Pixels, hole: NDArray[np.bool_], feather: int) -> Pixels:
    """`fill` inside the hole, `image` outside to the last bit.

    The two cross-fade over the outermost `feather` pixels of the hole, never outside it.
    """
    if fill.shape != image.shape:
        raise ValueError(f"filled image is {fill.shape}, the original {image.shape}")
    out = image.copy()
    depth = cv2.distanceTransform(hole.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[hole]
    weight = np.minimum(depth / np.float32(feather + 1), 1)[:, None].astype(np.float32)
    mixed = weight * fill[hole].astype(np.float32) + (1 - weight) * image[hole]
    out[hole] = np.rint(mixed).clip(0, 255).astype(np.uint8)
    return out
