"""Which things in an image are worth changing, annotated or detected. Knows boxes and text.

These limits are shared by the stages that end in `Grounded` records.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Le

from schemas.geometry import Box
from schemas.known import Known, Thing
from schemas.records import Drop, Reason, Seed
from stages import wording

_AROUND = 0.9
"""From this share on, the other box counts as surrounding the region, not as hiding it."""

_Test = Callable[[Seed, Thing, Sequence[Thing]], Drop | None]
"""Why a thing, given the other things, is not worth changing; or None."""


@dataclass(frozen=True, kw_only=True)
class RegionLimits:
    """Settings that decide which regions are kept: size, overlap, and the answer's words."""

    min_area: Annotated[float, Ge(0), Le(1)] = 0.002
    """Smallest box, as a share of the image's area."""
    max_area: Annotated[float, Gt(0), Le(1)] = 0.5
    """Largest box, as a share of the image's area; a box that fills the image is a scene."""
    max_regions: Annotated[int, Ge(1)] = 3
    """Most regions of a seed that are passed on."""
    mentioned: bool = True
    """Whether `chosen` must name the region's label: it stays true if something else changes."""
    unique: bool = True
    """Whether the answer must name this region and no other. Refuses a region if another one has
    the same head noun and no other colour, if the answer uses a plural ("its cubs", "two cubs") or
    tells several apart otherwise ("another dog"), or if the thing has no outline ("grass"). False
    for counting, which needs several."""
    max_overlap: Annotated[float, Ge(0), Le(1)] = 0.3
    """Largest share of a region's box that one other box may cover, since it may hide the region. A
    box around nearly all of it (the table under a cup) hides nothing and is allowed."""

    def __post_init__(self) -> None:
        """Refuse bounds that no region can meet."""
        if self.min_area > self.max_area:
            raise ValueError(
                f"min_area={self.min_area} is above max_area={self.max_area}; "
                "no region can meet both"
            )

    def worth_changing(self, seed: Seed, known: Known) -> tuple[int, ...] | Drop:
        """Indices of the things (at least one) that pass, the most prominent first.

        Prominence is box area times closeness to the middle (1 in the middle, 0 in a corner); ties
        stay in the given order. If none passes, the drop has the reason of the test that refused
        the last one.
        """
        tests: list[_Test] = [self._size, self._overlap]
        tests += [_mention] if self.mentioned else []
        tests += [_rival] if self.unique else []
        left = list(range(len(known.things)))
        for test in tests:
            refused = [test(seed, known.things[i], known.others(i)) for i in left]
            left = [i for i, drop in zip(left, refused, strict=True) if drop is None]
            if not left:
                return next(drop for drop in refused if drop is not None)
        ranked = sorted(left, key=lambda i: -_prominence(seed, known.things[i].box))
        return tuple(ranked[: self.max_regions])

    def _size(self, seed: Seed, region: Thing, _: Sequence[Thing]) -> Drop | None:
        share = region.box.area / (seed.width * seed.height)
        if share < self.min_area or share == 0:
            return Drop(
                Reason.REGION_TOO_SMALL, f'"{region.label}" is {share:.4f}, limit {self.min_area}'
            )
        if share > self.max_area:
            return Drop(
                Reason.REGION_TOO_LARGE, f'"{region.label}" is {share:.2f}, limit {self.max_area}'
            )
        return None

    def _overlap(self, _: Seed, region: Thing, others: Sequence[Thing]) -> Drop | None:
        for other in others:
            share = region.box.intersection(other.box).area / region.box.area
            around = share >= _AROUND and other.box.area >= 1.5 * region.box.area
            if share > self.max_overlap and not around:
                return Drop(
                    Reason.NO_REGION,
                    f'"{other.label}" covers {share:.2f} of "{region.label}", '
                    f"limit {self.max_overlap}",
                )
        return None


def is_mentioned(text: str, label: str) -> bool:
    """Whether the text mentions a thing of that label."""
    return bool(_mentions(text, label))


def _mention(seed: Seed, region: Thing, _: Sequence[Thing]) -> Drop | None:
    if _mentions(seed.chosen, region.label, region.attributes):
        return None
    return Drop(Reason.NOT_IN_ANSWER, f'the answer does not mention "{region.label}"')


def _rival(seed: Seed, region: Thing, others: Sequence[Thing]) -> Drop | None:
    head = wording.head_noun(region.label)
    if not wording.has_limits(region.label):
        return Drop(
            Reason.AMBIGUOUS_REGION,
            f'"{region.label}" has no outline: the box may hold only some of it',
        )
    mentions = _mentions(seed.chosen, region.label, region.attributes)
    if mentions and all(m.plural for m in mentions) and not wording.is_plural(head):
        return Drop(
            Reason.AMBIGUOUS_REGION,
            f'the answer mentions "{mentions[0].noun.text}", the region is one of them',
        )
    if wording.speaks_of_several(seed.chosen, region.label, region.attributes):
        return Drop(Reason.AMBIGUOUS_REGION, f'the answer mentions more than one "{region.label}"')
    for other in others:
        if _same_thing(mentions, region, other):
            return Drop(
                Reason.AMBIGUOUS_REGION, f'"{region.label}" may also be the other "{other.label}"'
            )
    return None


def _mentions(text: str, label: str, attributes: Iterable[str] = ()) -> list[wording.Mention]:
    return [
        mention
        for mention in wording.find_mentions(text, label)
        if wording.refers_to(mention, label, attributes)
    ]


def _same_thing(mentions: Iterable[wording.Mention], region: Thing, other: Thing) -> bool:
    """Whether the answer's words for one region could also mean the other."""
    if not wording.same_noun(wording.head_noun(region.label), wording.head_noun(other.label)):
        return False
    mentions = list(mentions)
    if not mentions:
        own = wording.label_colors(region.label, region.attributes)
        its = wording.label_colors(other.label, other.attributes)
        return not own or not its or bool(own & its)
    return any(wording.refers_to(m, other.label, other.attributes) for m in mentions)


def _prominence(seed: Seed, box: Box) -> float:
    half = math.hypot(seed.width, seed.height) / 2
    away = math.hypot(
        (box.x0 + box.x1 - seed.width) / 2,
        (box.y0 + box.y1 - seed.height) / 2,
    )
    return box.area * (1 - away / half)
