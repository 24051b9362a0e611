"""From boxes to masks: one record per region that came out well. Knows records, not models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Protocol, runtime_checkable

import numpy as np
from annotated_types import Ge, Le
from numpy.typing import NDArray

from schemas.geometry import Box, Mask
from schemas.records import Drop, Grounded, Reason, Region, Segmented
from stages.base import BackendSettings, Model, Stage
from stages.pixels import Pixels, decode


@runtime_checkable
class SegmenterModel(Model, Protocol):
    """What finds the pixels of the object in a box."""

    def segment(
        self, images: Sequence[Pixels], boxes: Sequence[Sequence[Box]]
    ) -> list[list[NDArray[np.bool_]]]:
        """A bool [H, W] mask of the image's size per box, nested as `boxes` is.

        All boxes of an image come together, so that a model encodes the image once.
        """


@dataclass(frozen=True)
class Segmenter(Stage[Grounded, Segmented]):
    """Fans a grounded seed out into its regions, each with its mask.

    A region that was annotated with a mask keeps it. Regions whose mask is no good are left out;
    the seed is dropped only when none is left.
    """

    backend: BackendSettings[SegmenterModel]
    """What segments."""
    min_area: Annotated[float, Ge(0), Le(1)] = 0.002
    """Least area of a mask, as a share of the image."""
    max_area: Annotated[float, Ge(0), Le(1)] = 0.6
    """Greatest area of a mask, as a share of the image."""
    min_fill: Annotated[float, Ge(0), Le(1)] = 0.15
    """Least share of its box that a found mask covers; below, the object was lost."""
    max_fill: Annotated[float, Ge(0), Le(1)] = 0.97
    """Greatest share of its box that a found mask covers; above, nothing was told apart."""

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
        early = [[self._misfit(record, region) for region in record.regions] for record in batch]
        todo = [
            [
                i
                for i, (region, drop) in enumerate(zip(record.regions, drops, strict=True))
                if drop is None and region.mask is None
            ]
            for record, drops in zip(batch, early, strict=True)
        ]
        asked = [k for k, indices in enumerate(todo) if indices]
        answers = (
            self.loaded(self.backend).segment(
                [decode(batch[k].seed.image) for k in asked],
                [[batch[k].regions[i].box for i in todo[k]] for k in asked],
            )
            if asked
            else []
        )
        found: dict[tuple[int, int], NDArray[np.bool_]] = {
            (k, i): mask
            for k, masks in zip(asked, answers, strict=True)
            for i, mask in zip(todo[k], masks, strict=True)
        }
        return [
            _gathered(
                record,
                [
                    drop or self._judged(record, region, found.get((k, i)))
                    for i, (region, drop) in enumerate(zip(record.regions, early[k], strict=True))
                ],
            )
            for k, record in enumerate(batch)
        ]

    def _misfit(self, record: Grounded, region: Region) -> Drop | None:
        """What can be judged before anything is computed."""
        seed, mask = record.seed, region.mask
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
        return self._too_small(region, area / (seed.width * seed.height), "box")

    def _too_small(self, region: Region, share: float, what: str) -> Drop | None:
        if share >= self.min_area:
            return None
        return Drop(
            Reason.REGION_TOO_SMALL,
            f"{region.label}: {what} covers {share:.2%} of the image, least {self.min_area:.2%}",
        )

    def _judged(
        self, record: Grounded, region: Region, found: NDArray[np.bool_] | None
    ) -> Segmented | Drop:
        """The region with its mask, annotated or `found`, or why not."""
        seed = record.seed
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
        return Segmented(seed, replace(region, mask=mask), record.things)


def _gathered(record: Grounded, judged: Sequence[Segmented | Drop]) -> Sequence[Segmented] | Drop:
    """The good ones; else the drop of the largest region, which is the one a reader looks for."""
    good = [outcome for outcome in judged if isinstance(outcome, Segmented)]
    if good:
        return good
    if not judged:
        return Drop(Reason.NO_REGION, "no region to segment")
    largest = max(range(len(judged)), key=lambda i: (record.regions[i].box.area, -i))
    drop = judged[largest]
    assert isinstance(drop, Drop)
    others = len(judged) - 1
    return replace(drop, detail=f"{drop.detail} (nor {others} more)") if others else drop


def _rounded(box: Box) -> str:
    return "[" + ", ".join(f"{value:g}" for value in box) + "]"
