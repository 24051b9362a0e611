"""Hole filling on the CPU, without a model. Knows pixels and masks, not records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import cv2
import numpy as np
from annotated_types import Ge, Le
from numpy.typing import NDArray

from stages.backends.inpaint.patchmatch import RADIUS, Effort, complete
from stages.base import CpuBackend
from stages.pixels import Pixels

BoolMask = NDArray[np.bool_]


@dataclass(frozen=True)
class PatchFill(CpuBackend):
    """Fills with patches of the surroundings: keeps texture and carries edges on."""

    name: Literal["patchmatch"] = "patchmatch"
    """Which backend this is."""
    context: Annotated[float, Ge(0.1), Le(4)] = 0.75
    """Surroundings to copy from, as a share of the hole's longer side."""
    working_area: Annotated[int, Ge(200), Le(200_000)] = 8000
    """Pixels that a large hole is reduced to for matching; time grows with it."""
    rounds: Annotated[int, Ge(1), Le(20)] = 2
    """Searches and votes at the finest scale; up to four times as many at coarser ones."""
    row_weight: Annotated[float, Ge(0), Le(10)] = 0.25
    """Cost of copying from another height, in grey levels per 1% of the crop: grounds and skies
    change with height. A fifth of it holds for columns."""

    def fill(
        self, images: Sequence[Pixels], masks: Sequence[BoolMask], avoid: Sequence[BoolMask]
    ) -> list[Pixels]:
        """Each image with its mask filled; the same bytes outside it."""
        return [self._fill(*one) for one in zip(images, masks, avoid, strict=True)]

    def _fill(self, image: Pixels, mask: BoolMask, avoid: BoolMask) -> Pixels:
        effort = Effort(self.rounds, self.row_weight, self.row_weight / 5)
        window = _window(mask, self.context, least=4 * RADIUS)
        filled = image.copy()
        if window is not None:
            filled[window] = complete(
                image[window], mask[window], avoid[window], self.working_area, effort
            )
        return filled


@dataclass(frozen=True)
class TeleaFill(CpuBackend):
    """Fills with colours marched in from the rim (Telea, 2004): quick, and smooth.

    Good for small holes in quiet grounds; smears anything else.
    """

    name: Literal["telea"] = "telea"
    """Which backend this is."""
    radius: Annotated[float, Ge(1), Le(50)] = 5.0
    """Neighbourhood in pixels that a filled pixel is mixed from."""

    def fill(
        self,
        images: Sequence[Pixels],
        masks: Sequence[BoolMask],
        avoid: Sequence[BoolMask],  # noqa: ARG002
    ) -> list[Pixels]:
        """Each image with its mask filled; the same bytes outside it. Ignores `avoid`."""
        return [self._fill(image, mask) for image, mask in zip(images, masks, strict=True)]

    def _fill(self, image: Pixels, mask: BoolMask) -> Pixels:
        window = _window(mask, 0.0, least=round(self.radius) + 2)
        filled = image.copy()
        if window is not None:
            crop, hole = image[window], mask[window]
            smooth = cv2.inpaint(crop, hole.astype(np.uint8), self.radius, cv2.INPAINT_TELEA)
            filled[window] = np.where(hole[..., None], smooth, crop)
        return filled


FILLS = (PatchFill, TeleaFill)
"""What a recipe can choose from, the default first."""


def _window(mask: BoolMask, context: float, least: int) -> tuple[slice, slice] | None:
    """The hole's bounding box with a margin inside the image; None for no hole."""
    rows, cols = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if rows.size == 0:
        return None
    longer = max(rows[-1] - rows[0], cols[-1] - cols[0]) + 1
    pad = max(least, round(context * longer))
    return (
        slice(max(0, int(rows[0]) - pad), min(mask.shape[0], int(rows[-1]) + 1 + pad)),
        slice(max(0, int(cols[0]) - pad), min(mask.shape[1], int(cols[-1]) + 1 + pad)),
    )
