"""Reversible padding: an image on a canvas of the size that an editor works at, and back.

An editor resizes its input to its own sizes, rounding each side separately, and so returns another
size and a slightly stretched image (QwenLM/Qwen-Image issues 160 and 229). It leaves a size alone
that this rounding maps to itself. So the image is scaled uniformly and padded to such a size by
reflecting its border, and the result is cropped and scaled back by the same numbers.

Knows arrays and boxes, not models.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import PIL.Image

from schemas.geometry import Box
from stages.pixels import Pixels


class Size(NamedTuple):
    """Of an image, in pixels."""

    width: int
    height: int

    @property
    def aspect(self) -> float:
        """Width by height."""
        return self.width / self.height

    def __str__(self) -> str:
        """As people write it: "1184x896"."""
        return f"{self.width}x{self.height}"


def size_of(pixels: Pixels) -> Size:
    """Of a uint8 [H, W, 3] array."""
    return Size(pixels.shape[1], pixels.shape[0])


def elongation(size: Size) -> float:
    """Longer side by shorter side; at least 1."""
    return max(size) / min(size)


def fixed_points(
    rule: Callable[[float], tuple[int, int]], multiple: int, max_elongation: float
) -> list[Size]:
    """All sizes of whole `multiple`s that an editor's own resize leaves as they are.

    `rule` gives the (width, height) that the editor brings an image of an aspect ratio to. Sizes
    more elongated than `max_elongation` are left out. Sorted.
    """
    longest = max(*rule(max_elongation), *rule(1 / max_elongation))
    sides = range(multiple, longest + multiple + 1, multiple)
    sizes = (Size(width, height) for width in sides for height in sides)
    return [
        size
        for size in sizes
        if elongation(size) <= max_elongation and tuple(rule(size.aspect)) == size
    ]


@dataclass(frozen=True, slots=True)
class Canvas:
    """Where an image lies on its canvas."""

    source: Size
    """Of the image."""
    size: Size
    """Of the canvas."""
    content: Size
    """Of the image on the canvas: scaled by one factor, then rounded to whole pixels."""
    left: int
    """Columns of border to the left of the image."""
    top: int
    """Rows of border above the image."""

    def __str__(self) -> str:
        """For provenance: "1184x896, 1180x886 at 2,5"."""
        return f"{self.size}, {self.content} at {self.left},{self.top}"

    def place(self, pixels: Pixels) -> Pixels:
        """The canvas with the image on it, its border reflected; [H, W, 3] of `size`.

        ValueError for an image of another size.
        """
        _require_size(pixels, self.source)
        scaled = resized(pixels, self.content)
        right = self.size.width - self.content.width - self.left
        below = self.size.height - self.content.height - self.top
        border = ((self.top, below), (self.left, right), (0, 0))
        return np.pad(scaled, border, mode="reflect")

    def restore(self, pixels: Pixels) -> Pixels:
        """The image on a canvas, back in its own size; [H, W, 3] of `source`.

        ValueError for a canvas of another size.
        """
        _require_size(pixels, self.size)
        rows = slice(self.top, self.top + self.content.height)
        columns = slice(self.left, self.left + self.content.width)
        return resized(np.ascontiguousarray(pixels[rows, columns]), self.source)

    def to_canvas(self, box: Box) -> Box:
        """A box in pixels of the image, in pixels of the canvas."""
        x, y = self._factors
        scaled = box.scaled(x, y)
        return Box(
            scaled.x0 + self.left, scaled.y0 + self.top, scaled.x1 + self.left, scaled.y1 + self.top
        )

    def from_canvas(self, box: Box) -> Box:
        """A box in pixels of the canvas, in pixels of the image."""
        x, y = self._factors
        moved = Box(box.x0 - self.left, box.y0 - self.top, box.x1 - self.left, box.y1 - self.top)
        return moved.scaled(1 / x, 1 / y)

    @property
    def _factors(self) -> tuple[float, float]:
        return (
            self.content.width / self.source.width,
            self.content.height / self.source.height,
        )


def canvas_for(source: Size, sizes: Sequence[Size]) -> Canvas:
    """The canvas that an image, placed in its middle, fills best.

    Of two that it fills equally well, the larger. ValueError if `sizes` is empty.
    """
    if not sizes:
        raise ValueError("no canvas sizes to choose from; the editor must name at least one")
    best = min(
        sizes,
        key=lambda s: (abs(math.log(source.aspect / s.aspect)), -s.width * s.height, s),
    )
    scale = min(best.width / source.width, best.height / source.height)
    content = Size(
        max(1, min(round(source.width * scale), best.width)),
        max(1, min(round(source.height * scale), best.height)),
    )
    left, top = (best.width - content.width) // 2, (best.height - content.height) // 2
    return Canvas(source, best, content, left, top)


def resized(pixels: Pixels, size: Size) -> Pixels:
    """The image in another size (Lanczos, which also averages when it reduces)."""
    if size_of(pixels) == size:
        return pixels
    image = PIL.Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(image.resize(size, PIL.Image.Resampling.LANCZOS))


def covered(pixels: Pixels, size: Size) -> Pixels:
    """The image scaled uniformly until it covers `size`, and cropped to its middle."""
    source = size_of(pixels)
    scale = max(size.width / source.width, size.height / source.height)
    kept = Size(
        max(1, min(round(size.width / scale), source.width)),
        max(1, min(round(size.height / scale), source.height)),
    )
    left, top = (source.width - kept.width) // 2, (source.height - kept.height) // 2
    middle = pixels[top : top + kept.height, left : left + kept.width]
    return resized(np.ascontiguousarray(middle), size)


def _require_size(pixels: Pixels, size: Size) -> None:
    if size_of(pixels) != size:
        raise ValueError(f"image is {size_of(pixels)}, expected {size}")
