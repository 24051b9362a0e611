"""From boxes to masks: one record per region that came out well. Knows records, not models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Protocol, runtime_checkable

import numpy as np
from annotated_types import Ge, Le
from numpy.typing import NDArray

from schemas.geometry import Box, Mask
from schemas.known import Thing
from schemas.records import Drop, Grounded, Reason, Seed, Segmented
from stages.base import BackendSettings, Model, Stage
from stages.pixels import Pixels, decode


@runtime_checkable
class SegmenterModel(Model, Protocol):
    """A model that finds the pixels of the object in a box."""

    def segment(
        self, images: Sequence[Pixels], boxes: Sequence[Sequence[Box]]
    ) -> list[list[NDArray[np.bool_]]]:
        """A bool [H, W] mask of the image's size per box, nested as `boxes` is.

        All boxes of an image come together, so that a model encodes the image once.
        """


@dataclass(frozen=True)
class Segmenter(Stage[Grounded, Segmented]):
    """Fans a grounded seed out into its regions, each with its mask.

    A region that has a mask, annotated or from its detector, keeps it. Regions with an unusable
    mask are left out; the seed is dropped only if none remains.
    """

    backend: BackendSettings[SegmenterModel] | None
    """The segmentation model. None (`backend: null`) if the detector gives every mask: no model is
    loaded, and a region without a mask is left out."""
    min_area: Annotated[float, Ge(0), Le(1)] = 0.002
    """Least area of a mask, as a share of the image."""
    max_area: Annotated[float, Ge(0), Le(1)] = 0.6
    """Largest area of a mask, as a share of the image."""
    min_fill: Annotated[float, Ge(0), Le(1)] = 0.15
    """Least share of its box that a predicted mask covers; below, the object was lost."""
    max_fill: Annotated[float, Ge(0), Le(1)] = 0.97
    """Largest share of its box that a predicted mask covers; above, object and background were not
    separated."""

    def __post_init__(self) -> None:
        """Refuse bounds that no mask can meet."""
        for low, high in (("min_area", "max_area"), ("min_fill", "max_fill")):
            if getattr(self, low) > getattr(self, high):
                raise ValueError(
                    f"{low}={getattr(self, low)} is above {high}={getattr(self, high)}; "
                    f"no mask can meet both"
                )

    def process(self, batch: Sequence[Grounded]) -> Sequence[Sequence[Segmented] | Drop]:
        """The good regions of each seed, in order, or the drop of its largest region."""
        early = [
            {i: self._misfit(record.seed, record.known.things[i]) for i in record.targets}
            for record in batch
        ]
        todo = [
            [i for i, drop in drops.items() if drop is None and record.known.things[i].mask is None]
            for record, drops in zip(batch, early, strict=True)
        ]
        return [
            _gathered(
                record,
                {
                    i: drop or self._judged(record.seed, record.known.things[i], masks.get(i))
                    for i, drop in drops.items()
                },
            )
            for record, drops, masks in zip(batch, early, self._found(batch, todo), strict=True)
        ]

    def _found(
        self, batch: Sequence[Grounded], todo: Sequence[Sequence[int]]
    ) -> list[dict[int, NDArray[np.bool_]]]:
        """The backend's masks of the things in `todo`, by index, for each record."""
        asked = [k for k, indices in enumerate(todo) if indices]
        found: list[dict[int, NDArray[np.bool_]]] = [{} for _ in batch]
        if asked:
            assert self.backend is not None
            answers = self.loaded(self.backend).segment(
                [decode(batch[k].seed.image) for k in asked],
                [[batch[k].known.things[i].box for i in todo[k]] for k in asked],
            )
            for k, masks in zip(asked, answers, strict=True):
                found[k] = dict(zip(todo[k], masks, strict=True))
        return found

    def _misfit(self, seed: Seed, region: Thing) -> Drop | None:
        """The checks that need no computed mask."""
        mask = region.mask
        if mask is not None:
            if (mask.width, mask.height) != (seed.width, seed.height):
                return Drop(
                    Reason.BAD_SEGMENTATION,
                    f"{region.label}: annotated mask is {mask.width}x{mask.height}, "
                    f"the image {seed.width}x{seed.height}",
                )
            return None
        area = region.box.clipped(seed.width, seed.height).area
        if area <= 0:
            return Drop(
                Reason.BAD_BOX,
                f"{region.label}: box {_rounded(region.box)} is empty in an image of "
                f"{seed.width}x{seed.height}",
            )
        if small := self._too_small(region, area / (seed.width * seed.height), "box"):
            return small
        if self.backend is None:
            return Drop(
                Reason.BAD_SEGMENTATION,
                f"{region.label}: only its box is known, and the segmenter has no backend",
            )
        return None

    def _too_small(self, region: Thing, share: float, what: str) -> Drop | None:
        if share >= self.min_area:
            return None
        return Drop(
            Reason.REGION_TOO_SMALL,
            f"{region.label}: {what} covers {share:.2%} of the image, least {self.min_area:.2%}",
        )

    def _judged(self, seed: Seed, region: Thing, found: NDArray[np.bool_] | None) -> Mask | Drop:
        """The region's mask, its own or `found`, or why it cannot be used."""
        mask = region.mask if found is None else Mask.from_array(found)
        assert mask is not None
        if found is not None:
            if found.shape != (seed.height, seed.width):
                raise ValueError(
                    f"segmenter returned a mask of shape {found.shape}, "
                    f"expected {(seed.height, seed.width)}"
                )
            x0, y0, x1, y1 = region.box.pixels(seed.width, seed.height)
            fill = int(found[y0:y1, x0:x1].sum()) / ((x1 - x0) * (y1 - y0))
            if not self.min_fill <= fill <= self.max_fill:
                return Drop(
                    Reason.BAD_SEGMENTATION,
                    f"{region.label}: mask fills {fill:.1%} of its box, "
                    f"expected {self.min_fill:.1%} to {self.max_fill:.1%}",
                )
        share = mask.area / (seed.width * seed.height)
        if small := self._too_small(region, share, "mask"):
            return small
        if share > self.max_area:
            return Drop(
                Reason.REGION_TOO_LARGE,
                f"{region.label}: mask covers {share:.1%} of the image, most {self.max_area:.1%}",
            )
        return mask


def _gathered(record: Grounded, judged: Mapping[int, Mask | Drop]) -> Sequence[Segmented] | Drop:
    """The good ones; else the drop of the largest region, the one a reader would ask about."""
    good = {i: mask for i, mask in judged.items() if isinstance(mask, Mask)}
    if good:
        known = record.known.with_masks(good)
        return [Segmented(record.seed, known, i) for i in good]
    drops = {i: drop for i, drop in judged.items() if isinstance(drop, Drop)}
    if not drops:
        return Drop(Reason.NO_REGION, "no region to segment")
    drop = drops[max(drops, key=lambda i: record.known.things[i].box.area)]
    others = len(drops) - 1
    return replace(drop, detail=f"{drop.detail} (nor {others} more)") if others else drop


def _rounded(box: Box) -> str:
    return "[" + ", ".join(f"{value:g}" for value in box) + "]"
