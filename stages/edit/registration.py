"""How far an edited image is shifted and enlarged against its original, and how to undo it.

Editors move images by some pixels and enlarge them by some tenths of a percent, even at their own
sizes (QwenLM/Qwen-Image issues 160 and 229). The movement is found in three steps: by phase
correlation (Kuglin and Hines, 1975) of the whole, then of tiles, which show how much of the image
agrees, then by robust least squares on the grey values (Lucas and Kanade, 1981), exact to
hundredths of a pixel. All three treat the part that was edited as an outlier.

Knows arrays. Both images are uint8 [H, W, 3] RGB of one size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from schemas.geometry import Box
from stages.pixels import Pixels

Plane = NDArray[np.float32]

_HALVED = 384
"""Shortest side in pixels from which images are compared at half their size: that takes a quarter
of the time and averages out the decoder's noise on single pixels."""
_TILE = 96
"""Side of a tile in the pixels that are compared: large enough that most have some structure."""
_AGREES = 0.5
"""Distance from the fit up to which a tile agrees with it, in the pixels that are compared. What an
edit moves on purpose moves much farther."""
_FLAT = 2.0
"""Standard deviation in grey levels below which a tile shows too little to be compared."""
_NOTHING = 0.1
"""Least movement of the farthest corner, in pixels, for which the image is resampled."""
_SMOOTHING = 1.5
"""Sigma in pixels of the blur before least squares: they see about twice as far."""
_ROUNDS = 5
"""Steps of least squares; each leaves a small part of the error."""


@dataclass(frozen=True, slots=True)
class Movement:
    """Where the points of an image went: p -> middle + zoom (p - middle) + (dx, dy)."""

    dx: float
    """To the right, in pixels."""
    dy: float
    """Downwards, in pixels."""
    zoom: float
    """Enlargement about the middle of the image; 1 is none."""
    confidence: float
    """Share of the structured tiles that moved so, 0 to 1 (in images too small for tiles, the
    height of the correlation's peak); 0 if no movement could be measured."""

    def __str__(self) -> str:
        """For provenance: "1.25,-0.50 x1.0021"."""
        return f"{self.dx:.2f},{self.dy:.2f} x{self.zoom:.4f}"

    def farthest(self, width: int, height: int) -> float:
        """How far the corner that moves most has moved, in pixels, in an image of this size."""
        grown = abs(self.zoom - 1)
        return math.hypot(
            abs(self.dx) + grown * width / 2,
            abs(self.dy) + grown * height / 2,
        )

    def undone(self, moved: Pixels, original: Pixels) -> Pixels:
        """The image with the movement undone; pixels that left it are filled from the original."""
        height, width = moved.shape[:2]
        if self.farthest(width, height) < _NOTHING:
            return moved
        back: Pixels = _warped(moved, self, cv2.INTER_LANCZOS4)
        x0, y0, x1, y1 = self.kept(width, height).pixels(width, height)
        filled = original.copy()
        filled[y0:y1, x0:x1] = back[y0:y1, x0:x1]
        return filled

    def kept(self, width: int, height: int) -> Box:
        """The part of an image of this size still in view after the movement, in whole pixels."""
        if self.farthest(width, height) < _NOTHING:
            return Box(0, 0, width, height)
        (x0, x1), (y0, y1) = (
            _kept(side, shift, self.zoom) for side, shift in ((width, self.dx), (height, self.dy))
        )
        return Box(x0, y0, max(x0, x1), max(y0, y1))


def _kept(side: int, shift: float, zoom: float) -> tuple[int, int]:
    """First and last (exclusive) of `side` points that are still in view."""
    middle = (side - 1) / 2
    # p -> middle + zoom (p - middle) + shift, solved for 0 and side - 1.
    first, last = ((edge - shift - middle) / zoom + middle for edge in (0, side - 1))
    return max(0, math.ceil(first)), min(side, math.floor(last) + 1)


def movement(original: Pixels, edited: Pixels, min_confidence: float = 0.25) -> Movement:
    """How `edited` has moved against `original`, sub-pixel.

    No movement is returned if the confidence is below `min_confidence`, since none can safely be
    undone. ValueError if the sizes differ.
    """
    if original.shape != edited.shape:
        raise ValueError(f"edited image is {edited.shape}, the original {original.shape}")
    factor = 0.5 if min(original.shape[:2]) >= _HALVED else 1.0
    still, moved = (_grey(image, factor) for image in (original, edited))
    found = _whole_shift(still, moved)
    if min(still.shape) >= 2 * _TILE:
        found = _chained(found, _agreed(still, _warped(moved, found)))
    if found.confidence < min_confidence:
        return Movement(0.0, 0.0, 1.0, found.confidence)
    found = _refined(still, moved, found)
    return Movement(found.dx / factor, found.dy / factor, found.zoom, found.confidence)


def _chained(first: Movement, then: Movement) -> Movement:
    """Both movements as one: `then` was found in an image in which `first` had been undone."""
    return Movement(
        first.dx + first.zoom * then.dx,
        first.dy + first.zoom * then.dy,
        first.zoom * then.zoom,
        then.confidence,
    )


def _grey(pixels: Pixels, factor: float) -> Plane:
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).astype(np.float32)
    small: Plane = cv2.resize(grey, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    return small


def _warped(image: Any, movement: Movement, how: int = cv2.INTER_LINEAR) -> Any:
    """The image with the movement undone.

    Linear to measure by: OpenCV's sharper kernels displace by up to a twentieth of a pixel.
    """
    height, width = image.shape[:2]
    zoom = movement.zoom
    matrix = np.array(
        [
            [zoom, 0, (width - 1) / 2 * (1 - zoom) + movement.dx],
            [0, zoom, (height - 1) / 2 * (1 - zoom) + movement.dy],
        ]
    )
    flags = how | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(
        image, matrix, (width, height), flags=flags, borderMode=cv2.BORDER_REFLECT_101
    )


def _whole_shift(still: Plane, moved: Plane) -> Movement:
    if min(float(still.std()), float(moved.std())) < _FLAT:
        return Movement(0.0, 0.0, 1.0, 0.0)
    dx, dy, peak = _correlated(still, moved)
    return Movement(dx, dy, 1.0, peak)


def _correlated(still: Plane, moved: Plane) -> tuple[float, float, float]:
    """Shift (dx, dy) in pixels and the height of its peak, 0 to 1."""
    window = cv2.createHanningWindow((still.shape[1], still.shape[0]), cv2.CV_32F)
    (dx, dy), peak = cv2.phaseCorrelate(still - still.mean(), moved - moved.mean(), window)
    return dx, dy, min(max(peak, 0.0), 1.0)


def _agreed(still: Plane, moved: Plane) -> Movement:
    """Shift and zoom by least squares over the tiles that agree; their share is the confidence."""
    tiles = _tiles(still, moved)
    if len(tiles) < 4:
        return Movement(0.0, 0.0, 1.0, 0.0)
    x, y, shifts = tiles[:, 0], tiles[:, 1], tiles[:, 2:].T.ravel()
    zero, one = np.zeros_like(x), np.ones_like(x)
    # In units of half an image, so that shift and zoom are numbers of like size.
    half = max(still.shape) / 2
    system = np.concatenate(
        [np.stack([one, zero, x / half], 1), np.stack([zero, one, y / half], 1)]
    )
    solution = np.array([*np.median(tiles[:, 2:], axis=0), 0.0])
    agree = np.zeros(len(tiles), dtype=bool)
    for _ in range(10):
        distance = np.hypot(*(shifts - system @ solution).reshape(2, -1))
        # Start from the nearest half, end with those that agree to a fraction of a pixel.
        nearer = distance <= max(_AGREES, float(np.median(distance)))
        if np.array_equal(nearer, agree):
            break
        agree = nearer
        both = np.tile(agree, 2)
        solution = np.linalg.lstsq(system[both], shifts[both], rcond=None)[0]
    share = float((distance <= _AGREES).mean())
    dx, dy, grown = (float(value) for value in solution)
    return Movement(dx, dy, 1 + grown / half, share)


def _tiles(still: Plane, moved: Plane) -> NDArray[np.float64]:
    """[N, 4] rows of structured tiles: x, y from the image's middle, dx, dy, in pixels."""
    height, width = still.shape
    rows = np.linspace(0, height - _TILE, max(2, round(height / _TILE))).astype(int)
    columns = np.linspace(0, width - _TILE, max(2, round(width / _TILE))).astype(int)
    found = []
    for top in rows:
        for left in columns:
            window = np.s_[top : top + _TILE, left : left + _TILE]
            here, there = still[window], moved[window]
            if min(float(here.std()), float(there.std())) < _FLAT:
                continue
            dx, dy, _ = _correlated(here, there)
            found.append((left + (_TILE - width) / 2, top + (_TILE - height) / 2, dx, dy))
    return np.array(found).reshape(-1, 4)


def _refined(still: Plane, moved: Plane, start: Movement) -> Movement:
    """The movement that makes the grey values agree best, outliers weighted down (Cauchy)."""
    still, moved = (cv2.GaussianBlur(plane, (0, 0), _SMOOTHING) for plane in (still, moved))
    height, width = still.shape
    x = (np.arange(width, dtype=np.float32) - (width - 1) / 2)[None, :]
    y = (np.arange(height, dtype=np.float32) - (height - 1) / 2)[:, None]
    rim = np.s_[_TILE // 8 : -(_TILE // 8), _TILE // 8 : -(_TILE // 8)]
    half = max(width, height) / 2
    found = start
    for _ in range(_ROUNDS):
        back = _warped(moved, found)
        # The derivative of both: one image's alone is biased if the two differ in sharpness.
        both = (back + still) / 2
        right, down = (cv2.Sobel(both, cv2.CV_32F, *d, ksize=3, scale=1 / 8) for d in _AXES)
        slopes = np.stack([s[rim].ravel() for s in (right, down, (right * x + down * y) / half)])
        error = (back - still)[rim].ravel()
        error -= np.median(error)  # a tint is not movement
        spread = max(2 * float(np.median(np.abs(error))), 0.5)
        weighted = slopes / (1 + (error / spread) ** 2)
        normal = weighted @ slopes.T + 1e-3 * np.eye(3)
        dx, dy, grown = (float(value) for value in -np.linalg.solve(normal, weighted @ error))
        found = _chained(found, Movement(dx, dy, 1 + grown / half, start.confidence))
    return found


_AXES = ((1, 0), (0, 1))
"""Orders of the derivative along x and y: to the right, and downwards."""
