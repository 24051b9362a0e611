"""Where in an image the tagged things are. Knows records, not models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Protocol, runtime_checkable

from annotated_types import Ge, Le

from schemas.geometry import Box
from schemas.records import Drop, Grounded, Reason, Region, Seed, Tagged
from stages import wording
from stages.base import Backend, Device, Stage
from stages.locate.regions import RegionLimits, is_mentioned
from stages.pixels import Pixels, decode


@runtime_checkable
class DetectorBackend(Backend, Protocol):
    """What finds things by their names."""

    def detect(
        self, images: Sequence[Pixels], tags: Sequence[Sequence[str]]
    ) -> list[list[tuple[str, Box, float]]]:
        """What was found of the tags of each image: tag, box in its pixels, score in [0, 1].

        A tag may be found several times; boxes may overlap.
        """


@dataclass(frozen=True)
class Detector(RegionLimits, Stage[Tagged, Grounded]):
    """Boxes of the tagged things, each thing once, of which those worth changing go on.

    Boxes that overlap as much as the limits below say are one thing. It keeps the name that the
    answer uses ("man", where "person" was found as well), among several the most confident one.
    The limits on size, overlap and mention are then those of annotated regions; where a seed brings
    such, they are taken and the model does not see it.
    """

    backend: DetectorBackend
    """What detects."""
    same_tag_iou: Annotated[float, Ge(0), Le(1)] = 0.5
    """Two boxes of one tag whose intersection over union is above this are one thing."""
    any_tag_iou: Annotated[float, Ge(0), Le(1)] = 0.8
    """Two boxes of different tags above this are one thing under two names."""

    def open(self, device: Device) -> None:
        """Load the backend, and the rules on words."""
        super().open(device)
        wording.load_rules()

    def process(self, batch: Sequence[Tagged]) -> Sequence[Sequence[Grounded] | Drop]:
        """The regions worth changing of each seed, best first, or why there is none.

        ValueError for a box or score that is no number in bounds.
        """
        asked = [k for k, record in enumerate(batch) if not record.seed.regions]
        given = (
            self.backend.detect(
                [decode(batch[k].seed.image) for k in asked],
                [[tag.name for tag in batch[k].tags] for k in asked],
            )
            if asked
            else []
        )
        answers = dict(zip(asked, given, strict=True))
        return [self._judged(record, answers.get(k, [])) for k, record in enumerate(batch)]

    def _judged(
        self, record: Tagged, found: Sequence[tuple[str, Box, float]]
    ) -> Sequence[Grounded] | Drop:
        seed = record.seed
        things = seed.regions or self._things(seed, found)
        if not things:
            names = ", ".join(tag.name for tag in record.tags[:8])
            return Drop(Reason.NO_REGION, f"none of {len(record.tags)} tags was found: {names}")
        kept = self.worth_changing(seed, things)
        return kept if isinstance(kept, Drop) else [Grounded(seed, tuple(kept), things)]

    def _things(self, seed: Seed, found: Sequence[tuple[str, Box, float]]) -> tuple[Region, ...]:
        """One region for each thing, by greedy suppression of those that overlap a better one."""
        regions = [_region(seed, *detection) for detection in found]
        regions = [region for region in regions if region.box.area > 0]
        named = {r.label: is_mentioned(seed.chosen, r) for r in regions}
        things: list[Region] = []
        for region in sorted(regions, key=lambda r: (not named[r.label], -(r.score or 0.0))):
            if not any(self._same(region, other) for other in things):
                things.append(region)
        return tuple(things)

    def _same(self, one: Region, other: Region) -> bool:
        same_tag = one.label.casefold() == other.label.casefold()
        return one.box.iou(other.box) > (self.same_tag_iou if same_tag else self.any_tag_iou)


def _region(seed: Seed, tag: str, box: Box, score: float) -> Region:
    if not 0 <= score <= 1 or not all(math.isfinite(value) for value in box):
        raise ValueError(
            f'detector found "{tag}" at {tuple(box)} with score {score}; finite pixels and a score '
            "in [0, 1] are expected"
        )
    return Region(tag, box.clipped(seed.width, seed.height), score=score)
