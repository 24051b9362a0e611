"""Where in an image the tagged things are. Knows records, not models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, NamedTuple, Protocol, runtime_checkable

from annotated_types import Ge, Le

from schemas.geometry import Box, Mask
from schemas.known import Known, Thing
from schemas.records import Drop, Grounded, Reason, Seed, Tagged
from stages import wording
from stages.base import BackendSettings, Device, Model, Stage
from stages.locate.detections import Detection
from stages.locate.regions import RegionLimits, is_mentioned
from stages.pixels import Pixels, decode


@runtime_checkable
class DetectorModel(Model, Protocol):
    """A model that finds things by their names."""

    def detect(
        self, images: Sequence[Pixels], tags: Sequence[Sequence[str]]
    ) -> list[list[Detection]]:
        """The things found in each image, given its tags.

        A tag may be found several times; boxes may overlap.
        """


@dataclass(frozen=True)
class Detector(RegionLimits, Stage[Tagged, Grounded]):
    """Finds the tagged things, each once, and passes on those worth changing.

    Boxes that overlap by more than the limits below are one thing. It keeps the name that the
    answer uses ("man", even if "person" was found as well), among several the most confident one.
    Then the limits on size, overlap and mention apply, as for annotated regions. A seed that brings
    annotated regions uses those, and the model does not see it.
    """

    backend: BackendSettings[DetectorModel]
    """The detection model."""
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

        ValueError for a box, score or mask that cannot be one of the image.
        """
        asked = [k for k, record in enumerate(batch) if not record.seed.regions]
        given = (
            self.loaded(self.backend).detect(
                [decode(batch[k].seed.image) for k in asked],
                [[tag.name for tag in batch[k].tags] for k in asked],
            )
            if asked
            else []
        )
        answers = dict(zip(asked, given, strict=True))
        return [self._judged(record, answers.get(k, [])) for k, record in enumerate(batch)]

    def _judged(self, record: Tagged, found: Sequence[Detection]) -> Sequence[Grounded] | Drop:
        seed = record.seed
        known = Known.annotated(seed.regions) if seed.regions else self._known(seed, found)
        if not known.things:
            names = ", ".join(tag.name for tag in record.tags[:8])
            return Drop(Reason.NO_REGION, f"none of {len(record.tags)} tags was found: {names}")
        targets = self.worth_changing(seed, known)
        return targets if isinstance(targets, Drop) else [Grounded(seed, known, targets)]

    def _known(self, seed: Seed, found: Sequence[Detection]) -> Known:
        """Each thing once: a box that overlaps a better one is greedily suppressed.

        The thing that is kept inherits the tags and scores of the boxes it suppresses.
        """
        named = [
            _Named(name, score, detection.box.clipped(seed.width, seed.height), detection)
            for detection in (_checked(seed, one) for one in found)
            for name, score in detection.names.items()
        ]
        named = [one for one in named if one.box.area > 0]
        mentioned = {one.name: is_mentioned(seed.chosen, one.name) for one in named}
        groups: list[list[_Named]] = []
        for one in sorted(named, key=lambda one: (not mentioned[one.name], -one.score)):
            same = next((group for group in groups if self._same(one, group[0])), None)
            if same is None:
                groups.append([one])
            else:
                same.append(one)
        return Known(tuple(self._thing(group) for group in groups))

    def _same(self, one: _Named, other: _Named) -> bool:
        same_tag = one.name.casefold() == other.name.casefold()
        return one.box.iou(other.box) > (self.same_tag_iou if same_tag else self.any_tag_iou)

    def _thing(self, group: Sequence[_Named]) -> Thing:
        """One thing from its detections, the best first."""
        best = group[0]
        scores: dict[str, float] = {}
        for one in group:
            for name, score in ((one.name, one.score), *one.detection.faint.items()):
                scores[name] = max(score, scores.get(name, 0.0))
        del scores[best.name]
        rest = sorted(scores.items(), key=lambda item: -item[1])
        mask = None if best.detection.mask is None else Mask.from_array(best.detection.mask)
        return Thing(
            {best.name: best.score, **dict(rest)}, best.box, mask, origin=self.backend.name
        )


class _Named(NamedTuple):
    """A detection under one of its names."""

    name: str
    score: float
    box: Box
    """The detection's, clipped to the image."""
    detection: Detection


def _checked(seed: Seed, found: Detection) -> Detection:
    scores = {**found.faint, **found.names}
    in_bounds = all(0 <= score <= 1 for score in scores.values())
    if not in_bounds or not all(math.isfinite(value) for value in found.box):
        raise ValueError(
            f"detector found {scores} at {tuple(found.box)}; finite pixels and scores in [0, 1] "
            "are expected"
        )
    if found.mask is not None and found.mask.shape != (seed.height, seed.width):
        raise ValueError(
            f"detector returned a mask of shape {found.mask.shape} for {scores}, "
            f"expected {(seed.height, seed.width)}"
        )
    return found
