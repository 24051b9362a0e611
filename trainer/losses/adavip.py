"""AdaViP, arXiv 2504.15619: the true cell against the wrong answer and the wrong image at once."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic.dataclasses import dataclass

from trainer.losses.base import LogProbs, LossOutput, PreferenceLoss, log_ratios
from trainer.losses.dpo import Negative, text_pair
from trainer.losses.terms import STRICT, Beta, Term, metrics
from trainer.losses.views import Answer, Images, View

_OTHER = View(Images.REJECTED, Answer.CHOSEN)


@dataclass(frozen=True, config=STRICT)
class AdaViP(PreferenceLoss):
    """Cross-entropy over the rewards of three cells, with the true one as label (eq 11).

    With r = beta d: logsumexp(r(y|m), r(y_l|m), r(y|m')) - r(y|m). The paper writes it as
    -log sigmoid(-log sum_j exp(r_j - r(y|m))) over the two wrong cells, which is the same number
    but overflows. The harder of the two gets the larger share of the gradient,
    sigmoid(r(y_l|m) - r(y|m')) and the rest, without a weight to set. No code was released; the
    paper does not say whether log-probs are summed or averaged: summed, as in DPO.
    """

    name: Literal["adavip"] = "adavip"
    beta: Beta = 0.1
    """Section 4.1."""
    negative: Negative = "rejected"
    """The answer y_l."""

    @property
    def views(self) -> frozenset[View]:
        """Three: the true cell, the wrong answer, the wrong image."""
        return frozenset({*text_pair(self.negative), _OTHER})

    def __call__(self, policy: LogProbs, reference: LogProbs) -> LossOutput:
        """See the class."""
        d = log_ratios(self, policy, reference)
        good, bad = text_pair(self.negative)
        rewards = self.beta * torch.stack([d[good], d[bad], d[_OTHER]])
        per_row = rewards.logsumexp(0) - rewards[0]
        terms = [Term("text", rewards[0] - rewards[1]), Term("image", rewards[0] - rewards[2])]
        share = torch.sigmoid(rewards[1] - rewards[2]).detach()
        return LossOutput(per_row, metrics(terms, d) | {"share/text": share})
