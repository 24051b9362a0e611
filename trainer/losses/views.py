"""Views: which images were shown, which answer was read. Knows pair columns, not models.

Every loss of the papers is a function of a small table of log-probabilities, one cell a view. A
loss names its views (`trainer.losses`), a builder turns a pair and its views into token rows, a
forward fills the cells. So a view says all that two cells of one pair can differ in, and nothing
about models, token ids or the order of a batch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Images(StrEnum):
    """What the prompt shows."""

    CHOSEN = "chosen"
    """The pair's `chosen_image`."""
    REJECTED = "rejected"
    """The pair's `rejected_image`."""
    NONE = "none"
    """No image at all: neither placeholder tokens nor pixels (S-VCO, OViP)."""
    CROP = "crop"
    """A random crop of `chosen_image`, resized to its size (mDPO keeps 1 to 20 % of the area).
    One draw per row, the same for policy and reference: mDPO's code draws twice, which puts noise
    into the ratio."""
    BOTH = "both"
    """Both images, then the question, then a sentence that names the first or the second image
    (IC-VCO). Which image comes first is no part of the view: it is drawn once per row and epoch
    from the row's seed, for all views of the row alike, policy and reference alike."""


class Answer(StrEnum):
    """Which text is read; the names are those of the pair's columns."""

    CHOSEN = "chosen"
    """True of the chosen image."""
    REJECTED = "rejected"
    """The ordinary wrong answer."""
    COUNTERFACTUAL = "counterfactual"
    """True of the rejected image."""


@dataclass(frozen=True, slots=True)
class View:
    """One cell of a pair's table: log p(answer | prompt, images), summed over tokens."""

    images: Images
    """What the prompt shows."""
    answer: Answer
    """Which answer is read."""
    masked: bool = False
    """False: all tokens of the answer and the end-of-turn token after it count. True: only tokens
    that overlap the answer's spans by a character or more; the end-of-turn token does not."""
    anchor: Images | None = None
    """For `BOTH` alone: the image that the last sentence of the prompt names, by its role (CHOSEN
    or REJECTED); the row's order makes it "first" or "second"."""
    average: bool = False
    """Whether the sum is divided by the number of counted tokens (0 where none count)."""

    def __post_init__(self) -> None:
        """Refuse cells that cannot be filled."""
        if self.images is Images.BOTH:
            if self.anchor not in (Images.CHOSEN, Images.REJECTED):
                raise ValueError(
                    f"a view of both images names one of them, not {self.anchor}: "
                    "set anchor to chosen or rejected"
                )
        elif self.anchor is not None:
            raise ValueError(
                f"anchor={self.anchor} on a view of images={self.images}: only a view of both "
                "images names one of them; leave anchor out"
            )
        if self.masked and self.answer is Answer.REJECTED:
            raise ValueError(
                "a masked view reads chosen or counterfactual, not rejected: pairs mark the words "
                "in which those two differ"
            )

    @property
    def key(self) -> str:
        """A name that never changes: for columns of side-car files and for messages."""
        shown = str(self.images) if self.anchor is None else f"{self.images}-{self.anchor}"
        counted = ("-masked" if self.masked else "") + ("-average" if self.average else "")
        return f"{shown}/{self.answer}{counted}"


def columns(views: Iterable[View]) -> frozenset[str]:
    """The columns of `schemas.records.Pair` that a row must fill to have these views.

    A masked view asks for its answer's spans; as one of the two answers may have none (a pure
    insertion), a row lacks spans only where both answers have none.
    """
    found = {"prompt"}
    for view in views:
        found.add(str(view.answer))
        if view.images in (Images.CHOSEN, Images.CROP, Images.BOTH):
            found.add("chosen_image")
        if view.images in (Images.REJECTED, Images.BOTH):
            found.add("rejected_image")
        if view.masked:
            found.add(f"{view.answer}_spans")
    return frozenset(found)
