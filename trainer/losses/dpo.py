"""DPO, arXiv 2305.18290: the true answer over a wrong one, the same image shown."""

from __future__ import annotations

from typing import Literal

from pydantic.dataclasses import dataclass

from trainer.losses.base import LogProbs, LossOutput, PreferenceLoss, log_ratios
from trainer.losses.terms import STRICT, Beta, Term, combine
from trainer.losses.views import Answer, Images, View

Negative = Literal["rejected", "counterfactual"]
"""Which wrong answer a loss reads: the pair's ordinary one, or the one that is true of the other
image (both are the same in MVC's and IC-VCO's data; our own recipes always write the second where
they can, and have the first only where the input has it)."""


@dataclass(frozen=True, config=STRICT)
class DPO(PreferenceLoss):
    """-log sigmoid(beta [d(y|m) - d(y_l|m)]), eq 7; label smoothing 0."""

    name: Literal["dpo"] = "dpo"
    beta: Beta = 0.1
    """As in all six papers."""
    negative: Negative = "rejected"
    """The answer y_l."""

    @property
    def views(self) -> frozenset[View]:
        """The chosen image with either answer."""
        return frozenset(text_pair(self.negative))

    def __call__(self, policy: LogProbs, reference: LogProbs) -> LossOutput:
        """See the class."""
        d = log_ratios(self, policy, reference)
        good, bad = text_pair(self.negative)
        return combine([Term("text", self.beta * (d[good] - d[bad]))], d)


def text_pair(negative: Negative) -> tuple[View, View]:
    """The cells of the preference between answers: the true and the wrong one, image m."""
    return (
        View(Images.CHOSEN, Answer.CHOSEN),
        View(Images.CHOSEN, Answer(negative)),
    )
