"""SymMPO, arXiv 2506.11712: DPO, and the answers compared under both images, in equal measure."""

from __future__ import annotations

from typing import Literal

from pydantic.dataclasses import dataclass

from trainer.losses.base import LogProbs, LossOutput, PreferenceLoss, log_ratios
from trainer.losses.dpo import Negative, text_pair
from trainer.losses.terms import STRICT, Beta, Term, Weight, combine
from trainer.losses.views import Answer, Images, View

_OWN = View(Images.CHOSEN, Answer.CHOSEN)
_SWAPPED = View(Images.CHOSEN, Answer.COUNTERFACTUAL)
_OWN_MIRRORED = View(Images.REJECTED, Answer.COUNTERFACTUAL)
_SWAPPED_MIRRORED = View(Images.REJECTED, Answer.CHOSEN)


@dataclass(frozen=True, config=STRICT)
class SymMPO(PreferenceLoss):
    """Five logistic terms and a square (SymMPO:muffin/train/trainers.py:91-146).

    The code has two betas (`dpo_loss`): `beta_1` is DPO's, that of z1 and z2 and of the first
    anchor, `beta_2` that of the second anchor alone.

    text:            beta [d(y|m) - d(y_l|m)]
    answer:          beta z1, z1 = d(y|m) - d(y'|m), times lambda
    answer_mirrored: beta z2, z2 = d(y'|m') - d(y|m'), times lambda
    anchor:          beta d(y|m)
    anchor_mirrored: beta_mirrored d(y'|m')
    consistency:     1e-4 (z1 - z2)^2, in nats squared, without beta

    With `negative="counterfactual"` the text term is the answer term once more.
    """

    name: Literal["symmpo"] = "symmpo"
    beta: Beta = 0.1
    """beta_1: of all terms but the second anchor; 0.1 in the scripts, 0.5 as argument's default."""
    beta_mirrored: Beta = 0.1
    """beta_2: of the second anchor alone."""
    negative: Negative = "rejected"
    """The answer y_l."""
    symmetric_weight: Weight = 0.5
    """lambda of the scripts."""
    anchor_weight: Weight = 1.0
    """Of both anchors; 1 in the code."""
    consistency_weight: Weight = 1e-4
    """Fixed at 1e-4 in the code."""

    @property
    def views(self) -> frozenset[View]:
        """Five, or DPO's two and what the weights leave."""
        found = set(text_pair(self.negative))
        if self.symmetric_weight or self.consistency_weight:
            found |= {_SWAPPED, _OWN_MIRRORED, _SWAPPED_MIRRORED}
        if self.anchor_weight:
            found |= {_OWN_MIRRORED}
        return frozenset(found)

    def __call__(self, policy: LogProbs, reference: LogProbs) -> LossOutput:
        """See the class."""
        d = log_ratios(self, policy, reference)
        good, bad = text_pair(self.negative)
        terms = [Term("text", self.beta * (d[good] - d[bad]))]
        if self.anchor_weight:
            mirrored = self.beta_mirrored * d[_OWN_MIRRORED]
            terms += [
                Term("anchor", self.beta * d[_OWN], self.anchor_weight, compares=False),
                Term("anchor_mirrored", mirrored, self.anchor_weight, compares=False),
            ]
        if not (self.symmetric_weight or self.consistency_weight):
            return combine(terms, d)
        z1, z2 = d[_OWN] - d[_SWAPPED], d[_OWN_MIRRORED] - d[_SWAPPED_MIRRORED]
        if self.symmetric_weight:
            terms += [
                Term("answer", self.beta * z1, self.symmetric_weight),
                Term("answer_mirrored", self.beta * z2, self.symmetric_weight),
            ]
        square = (z1 - z2).square()
        output = combine(terms, d, {"loss/consistency": square.detach()})
        if not self.consistency_weight:
            return output
        return LossOutput(output.per_row + self.consistency_weight * square, output.metrics)
