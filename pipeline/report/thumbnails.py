"""Thumbnails as data URIs, and region outlines in their pixels."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np
import PIL.Image
from numpy.typing import NDArray

from schemas.geometry import Mask

LONG_SIDE = 384
"""Longest side of a thumbnail, in pixels."""
_QUALITY = 80
_MAX_CONTOURS = 24
_MAX_REGIONS = 12


class Thumbnail(NamedTuple):
    """A small image that travels inside the page."""

    uri: str
    """Data URI of a JPEG."""
    width: int
    height: int
    original_size: tuple[int, int]
    """Width and height of the full image, in pixels."""


def thumbnail(data: bytes) -> Thumbnail | None:
    """The image, shrunk to `LONG_SIDE`; None if it cannot be decoded."""
    try:
        with PIL.Image.open(io.BytesIO(data)) as image:
            size = image.size
            # Lets the JPEG decoder skip detail that the thumbnail cannot hold; twice the size is
            # kept, so that the filter below and not the decoder decides how it looks.
            image.draft("RGB", (2 * LONG_SIDE, 2 * LONG_SIDE))
            small = image.convert("RGB")
    # A dropped row may hold anything; the card then says so in the image's place.
    except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError):
        return None
    small.thumbnail((LONG_SIDE, LONG_SIDE), PIL.Image.Resampling.LANCZOS)
    sink = io.BytesIO()
    small.save(sink, "JPEG", quality=_QUALITY, optimize=True)
    uri = "data:image/jpeg;base64," + base64.b64encode(sink.getvalue()).decode()
    return Thumbnail(uri, small.width, small.height, size)


def outline(regions: Sequence[Mapping[str, Any]], image: Thumbnail) -> str:
    """SVG path data around the regions' masks (or boxes), in pixels of the thumbnail.

    Empty where nothing is left to draw. ValueError if a mask is damaged.
    """
    return "".join(_region_path(region, image) for region in regions[:_MAX_REGIONS])


def _region_path(region: Mapping[str, Any], image: Thumbnail) -> str:
    mask = region.get("mask")
    path = ""
    if mask is not None:
        runs = Mask(mask["height"], mask["width"], tuple(mask["counts"]))
        path = _mask_path(runs, image)
    # A region thinner than a thumbnail pixel leaves no contour; its box still shows where it is.
    return path or _box_path(region.get("box"), image)


def _mask_path(mask: Mask, image: Thumbnail) -> str:
    array = mask.to_array()
    if array.size == 0:
        return ""
    small = cv2.resize(
        array.astype(np.uint8) * 255,
        (image.width, image.height),
        interpolation=cv2.INTER_AREA,
    )
    found, _ = cv2.findContours(
        (small > 127).astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE
    )
    contours = sorted(found, key=len, reverse=True)[:_MAX_CONTOURS]
    return "".join(_polygon(cv2.approxPolyDP(c, 0.7, closed=True)[:, 0]) for c in contours)


def _polygon(points: NDArray[np.int32]) -> str:
    if len(points) < 3:
        return ""
    # Contours run through the centres of the region's outermost pixels.
    return "M" + "L".join(f"{x}.5 {y}.5" for x, y in points.tolist()) + "Z"


def _box_path(box: Sequence[float] | None, image: Thumbnail) -> str:
    if not box:
        return ""
    width, height = image.original_size
    sx, sy = image.width / max(width, 1), image.height / max(height, 1)
    x0, y0, x1, y1 = (round(v * s, 1) for v, s in zip(box, (sx, sy, sx, sy), strict=True))
    return f"M{x0} {y0}H{x1}V{y1}H{x0}Z" if x1 > x0 and y1 > y0 else ""
