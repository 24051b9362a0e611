"""What is known to be in an image, annotated or detected. Knows boxes and words, not pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from schemas.geometry import Box, Mask

ANNOTATED = "annotated"
"""Origin of a thing that the input names."""


@dataclass(frozen=True, slots=True)
class Region:
    """A labelled part of an image."""

    label: str
    """What it is, as annotated or detected: "red stool"."""
    box: Box
    """xyxy pixels of the image of the record that holds the region."""
    mask: Mask | None = None
    """Its pixels, if it was segmented."""
    attributes: tuple[str, ...] = ()
    """Annotated properties: ("red", "wooden")."""
    score: float | None = None
    """The detector's confidence in [0, 1]; None for an annotation."""


@dataclass(frozen=True, slots=True)
class Thing:
    """One thing in an image and all that annotations or detectors say of it."""

    scores: Mapping[str, float]
    """Its label, then every other tag that it may go by, best first: {"suv": 0.6, "car": 0.4}.
    The detector's confidence in [0, 1]; 1 for an annotated label."""
    box: Box
    """xyxy pixels of the image."""
    mask: Mask | None = None
    """Its pixels in the whole image, if it was segmented."""
    attributes: tuple[str, ...] = ()
    """Annotated properties: ("red", "wooden")."""
    origin: str = ANNOTATED
    """`ANNOTATED`, or the name of the backend that detected it: "grounding_dino"."""
    part_of: int | None = None
    """Index of the whole that it is a part of (the man whose shirt it is); None where unknown."""
    same_as: int | None = None
    """Index of the first thing that is the same under another label; None where unknown."""

    @property
    def label(self) -> str:
        """What it is called: the first of `scores`."""
        return next(iter(self.scores))

    @property
    def region(self) -> Region:
        """The thing as pairs store it: under its label only."""
        score = None if self.origin == ANNOTATED else self.scores[self.label]
        return Region(self.label, self.box, self.mask, self.attributes, score)


@dataclass(frozen=True, slots=True)
class Known:
    """All that is known to be in one image. Indices of things are places in `things`."""

    things: tuple[Thing, ...]
    """Worth changing or not, in the order of the annotations, or as the detector ranked them."""

    @classmethod
    def annotated(cls, regions: Sequence[Region]) -> Known:
        """The things that the input names."""
        return cls(
            tuple(Thing({r.label: 1.0}, r.box, r.mask, attributes=r.attributes) for r in regions)
        )

    def others(self, of: int) -> tuple[Thing, ...]:
        """All things except the one of that index and its duplicates under other labels."""
        first = self._first(of)
        return tuple(thing for i, thing in enumerate(self.things) if self._first(i) != first)

    def _first(self, index: int) -> int:
        """Index under which the thing of that index is first known."""
        same_as = self.things[index].same_as
        return index if same_as is None else same_as

    def with_masks(self, masks: Mapping[int, Mask]) -> Known:
        """The same things, with the new masks, given by index, filled in."""
        return Known(
            tuple(
                replace(thing, mask=masks[i]) if i in masks else thing
                for i, thing in enumerate(self.things)
            )
        )
