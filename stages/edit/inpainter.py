"""Takes objects out of the image: the OBJECT contrast. Knows records, not models.

As in AdaViP (vision preference by removal): without a thing that the answer mentions, the answer is
false of the image.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal, Protocol, runtime_checkable

import cv2
import numpy as np
from annotated_types import Ge, Le
from numpy.typing import NDArray

from schemas.geometry import Box, Mask
from schemas.known import Thing
from schemas.records import Candidate, Contrast, Drop, Kind, Reason, Region, Segmented
from stages import wording
from stages.base import BackendSettings, Device, Model, Stage
from stages.edit.blending import blended
from stages.pixels import Pixels, decode, encode_pair

BoolMask = NDArray[np.bool_]


@runtime_checkable
class InpainterModel(Model, Protocol):
    """A model that fills holes."""

    def fill(
        self, images: Sequence[Pixels], masks: Sequence[BoolMask], avoid: Sequence[BoolMask]
    ) -> list[Pixels]:
        """Each image with the pixels of its bool [H, W] mask replaced by a plausible background.

        Changes outside the mask are ignored. `avoid` (bool [H, W] too) marks other things: a
        backend that fills by copying must not copy them; others may ignore it.
        """


@dataclass(frozen=True)
class Inpainter(Stage[Segmented, Candidate]):
    """Removes the region of each record from its image."""

    backend: BackendSettings[InpainterModel]
    """The model that fills the hole."""
    dilation: Annotated[float, Ge(0), Le(0.1)] = 0.008
    """How far the mask is grown, as a share of the image's diagonal: past the object's halo."""
    shadow: Annotated[float, Ge(0), Le(0.1)] = 0.008
    """How much farther it is grown downwards, for the shadow where the object stands; same unit."""
    max_area: Annotated[float, Ge(0), Le(1)] = 0.5
    """Largest area of the grown mask, as a share of the image: the rest must show what to fill it
    with."""
    counterfactual: Literal["absence", "none"] = "absence"
    """Whether to write an answer that is true of the new image: "There is no red stool in the
    image." None is written if another thing, annotated or detected, fits the label, if the answer
    mentions several, or for parts and kinds of things ("wheel", "animal"): more may remain."""

    def open(self, device: Device) -> None:
        """Load the backends, and the rules on words."""
        super().open(device)
        wording.load_rules()

    def process(self, batch: Sequence[Segmented]) -> Sequence[Sequence[Candidate] | Drop]:
        """One candidate per region, or why there is none; the holes are filled in one call."""
        outcomes = [self._hole(record) for record in batch]
        todo = [
            (record, hole)
            for record, hole in zip(batch, outcomes, strict=True)
            if not isinstance(hole, Drop)
        ]
        images = [decode(record.seed.image) for record, _ in todo]
        others = [_other_things(record) for record, _ in todo]
        model, holes = self.loaded(self.backend), [hole for _, hole in todo]
        filled = model.fill(images, holes, others) if todo else []
        made = (
            self._candidate(record, hole, image, fill)
            for (record, hole), image, fill in zip(todo, images, filled, strict=True)
        )
        return [hole if isinstance(hole, Drop) else [next(made)] for hole in outcomes]

    def _hole(self, record: Segmented) -> BoolMask | Drop:
        """The grown mask, or why the region cannot be removed."""
        seed, region = record.seed, record.region
        if region.mask is None:
            raise ValueError(f"region {region.label!r} of seed {seed.seed_id} has no mask")
        down, radius = self._growth(seed.width, seed.height)
        hole = _grown(region.mask.to_array(), radius, down)
        share = float(hole.mean())
        if not hole.any():
            return Drop(Reason.BAD_SEGMENTATION, f"{region.label}: mask is empty")
        if share > self.max_area:
            return Drop(
                Reason.REGION_TOO_LARGE,
                f"{region.label}: hole covers {share:.1%} of the image, most {self.max_area:.1%}",
            )
        return hole

    def _growth(self, width: int, height: int) -> tuple[int, int]:
        """Pixels (farther down, all around) that a mask is grown by."""
        diagonal = float(np.hypot(width, height))
        return round(self.shadow * diagonal), round(self.dilation * diagonal)

    def _candidate(
        self, record: Segmented, hole: BoolMask, image: Pixels, fill: Pixels
    ) -> Candidate:
        seed = record.seed
        down, radius = self._growth(seed.width, seed.height)
        chosen, rejected = encode_pair(seed.image, blended(image, fill, hole, radius // 3))
        label = plain_label(record.region.label)
        return Candidate(
            seed=seed,
            contrast=Contrast(Kind.OBJECT, record.region.label, None, f"remove the {label}"),
            regions=(replace(record.region, box=_bounds(hole), mask=Mask.from_array(hole)),),
            chosen_image=chosen,
            rejected_image=rejected,
            counterfactual=self._answer(record),
            params={
                "dilation_px": str(radius),
                "shadow_px": str(down),
                "hole_share": f"{float(hole.mean()):.4f}",
            },
        )

    def _answer(self, record: Segmented) -> str | None:
        """The sentence of absence; None if something still in the image might make it false."""
        region = record.region
        stays = any(_is_twin(other, region) for other in record.others) or wording.may_stay(
            record.seed.chosen, region.label, [other.label for other in record.others]
        )
        return None if stays or self.counterfactual == "none" else absence(region.label)


def absence(label: str) -> str:
    """The sentence that says that the thing is absent: "There are no dogs in the image."."""
    name = plain_label(label)
    return f"There {'are' if _is_plural(name) else 'is'} no {name} in the image."


def plain_label(label: str) -> str:
    """A label as it stands inside a sentence: lower case, one line, without article or number."""
    words = " ".join(label.lower().split()).rstrip(".,;:!? ")
    return _LEADING.sub("", words) or words


_LEADING = re.compile(
    r"^(?:(?:a|an|the|some|one|two|three|four|five|six|seven|eight|nine|ten|\d+)\s+)+(?=\w)"
)


def _is_plural(name: str) -> bool:
    head = wording.head_noun(name)
    return head == "people" or wording.is_plural(head)


def _is_twin(other: Thing, region: Region) -> bool:
    """Another object that the region's label fits ("stool" fits a "red stool").

    A box that overlaps by half is taken for the same object annotated twice.
    """
    name, its = wording.label_words(region.label), wording.label_words(other.label)
    if not name or not its:
        return False
    fits = set(name[:-1]) <= set(its) and wording.same_noun(name[-1], its[-1])
    return fits and other.box.iou(region.box) < 0.5


def _other_things(record: Segmented) -> BoolMask:
    """The boxes of the image's other things, except those that the region stands in or on."""
    seed, own = record.seed, record.region.box
    things = np.zeros((seed.height, seed.width), dtype=bool)
    for other in record.others:
        around = other.box.intersection(own).area > 0.5 * own.area
        if not around:
            x0, y0, x1, y1 = other.box.pixels(seed.width, seed.height)
            things[y0:y1, x0:x1] = True
    return things


def _grown(mask: BoolMask, radius: int, down: int) -> BoolMask:
    """The mask grown by `radius` pixels all around, and `down` more towards the bottom."""
    size = 2 * radius + 1
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    grown = cv2.dilate(mask.astype(np.uint8), disc)
    # A column of ones whose anchor is its last row moves ones downwards only.
    column = np.ones((down + 1, 1), dtype=np.uint8)
    hole: BoolMask = cv2.dilate(grown, column, anchor=(0, down)) > 0
    return hole


def _bounds(hole: BoolMask) -> Box:
    rows, cols = np.nonzero(hole.any(axis=1))[0], np.nonzero(hole.any(axis=0))[0]
    return Box(float(cols[0]), float(rows[0]), float(cols[-1] + 1), float(rows[-1] + 1))
