"""Views: which images were shown, which answer was read, what is made of its tokens.

Every loss of the papers is a function of a small table of numbers, one cell a view. A loss names
its views (`trainer.losses`), a builder turns a pair and its views into token rows, a forward fills
the cells. So a view says all that two cells of one pair can differ in, and nothing about models,
token ids or the order of a batch. Knows pair columns, not models.
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
    NOISED = "noised"
    """`chosen_image` under the noise of a diffusion step (CHiP). One draw per row and epoch, the
    same for policy and reference."""
    BOTH = "both"
    """Both images, then the question, then a sentence that names the first or the second image
    (IC-VCO). Which image comes first is not part of the view: it is drawn once per row and epoch
    from the row's seed, for all views of the row alike, policy and reference alike."""


DRAWN = frozenset({Images.CROP, Images.NOISED, Images.BOTH})
"""What depends on the run's seed and the epoch."""


class Answer(StrEnum):
    """Which text is read; the names are those of the pair's columns."""

    CHOSEN = "chosen"
    """True of the chosen image."""
    REJECTED = "rejected"
    """The ordinary wrong answer."""
    COUNTERFACTUAL = "counterfactual"
    """True of the rejected image."""


class Tokens(StrEnum):
    """Which tokens of the answer count."""

    ALL = "all"
    """All, and the end-of-turn token after them."""
    SPANS = "spans"
    """Those that overlap the answer's spans by a character or more; the end-of-turn token does
    not."""
    FROM_FIRST_DIFFERENCE = "from_first_difference"
    """From the first token in which the answer differs from `View.against` to end-of-turn; all
    where the two answers have the same tokens (V-DPO)."""
    DIFFERING = "differing"
    """Those outside the runs of three or more tokens that the answer shares with `View.against`,
    end-of-turn included (CHiP)."""


class Quantity(StrEnum):
    """What a cell holds, made of the tokens that count."""

    SUM = "sum"
    """log p(answer | prompt, images): the sum of the tokens' log-probs."""
    MEAN = "mean"
    """Their mean; 0 where none count."""
    KL = "kl"
    """The sum over the tokens' places of KL(reference || policy) over the whole vocabulary, >= 0.
    It compares two models, so it is in the policy's table alone."""


_OF_TWO = (Tokens.FROM_FIRST_DIFFERENCE, Tokens.DIFFERING)


@dataclass(frozen=True, slots=True)
class View:
    """One cell of a pair's table: by default log p(answer | prompt, images), summed over tokens."""

    images: Images
    """What the prompt shows."""
    answer: Answer
    """Which answer is read."""
    tokens: Tokens = Tokens.ALL
    """Which of its tokens count."""
    quantity: Quantity = Quantity.SUM
    """What the cell holds."""
    anchor: Images | None = None
    """For `BOTH` alone: the image that the last sentence of the prompt names, by its role (CHOSEN
    or REJECTED); the row's order makes it "first" or "second"."""
    against: Answer | None = None
    """For tokens that differ: the other answer."""

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
        of_two = self.tokens in _OF_TWO
        if of_two is (self.against is None) or self.against is self.answer:
            raise ValueError(
                f"against={self.against} on a view of {self.answer} with tokens={self.tokens}: "
                f"{' and '.join(_OF_TWO)} name another answer there, the others none"
            )

    @property
    def key(self) -> str:
        """A name that never changes: for columns of reference files and for messages."""
        shown = str(self.images) if self.anchor is None else f"{self.images}-{self.anchor}"
        counted = {Tokens.ALL: "", Tokens.SPANS: "-masked"}.get(
            self.tokens, f"-{self.tokens}-{self.against}"
        )
        held = {Quantity.SUM: "", Quantity.MEAN: "-average"}.get(self.quantity, f"-{self.quantity}")
        return f"{shown}/{self.answer}{counted}{held}"


def of_log_probs(views: Iterable[View]) -> frozenset[View]:
    """The views that hold log-probs of one model; the others compare policy and reference."""
    return frozenset(view for view in views if view.quantity is not Quantity.KL)


def columns(views: Iterable[View]) -> frozenset[str]:
    """The columns of `schemas.records.Pair` that a row must fill to have these views.

    A view of spans asks for its answer's; as one of two answers may have none (a pure insertion), a
    row lacks spans only where all answers that are asked for theirs have none.
    """
    found = {"prompt"}
    for view in views:
        found.add(str(view.answer))
        if view.against is not None:
            found.add(str(view.against))
        if view.images in (Images.CHOSEN, Images.CROP, Images.NOISED, Images.BOTH):
            found.add("chosen_image")
        if view.images in (Images.REJECTED, Images.BOTH):
            found.add("rejected_image")
        if view.tokens is Tokens.SPANS:
            found.add(f"{view.answer}_spans")
    return frozenset(found)
