"""mDPO, arXiv 2406.11839: DPO, the same with a crop in the image's place, and an anchor."""

from __future__ import annotations

from typing import Literal

from pydantic.dataclasses import dataclass

from trainer.losses.base import LogProbs, LossOutput, PreferenceLoss, log_ratios
from trainer.losses.dpo import Negative, text_pair
from trainer.losses.terms import STRICT, Beta, Term, Weight, combine
from trainer.losses.views import Answer, Images, View

_CROPPED = View(Images.CROP, Answer.CHOSEN)


@dataclass(frozen=True, config=STRICT)
class MDPO(PreferenceLoss):
    """Three logistic terms of equal weight (mDPO:mdpo_trainer.py:92-135).

    text:   beta [d(y|m) - d(y_l|m)]
    crop:   beta [d(y|m) - d(y|crop(m))]
    anchor: beta d(y|m) - delta

    Unlike the released code, which crops anew in the reference's forward (146, 156), both sides of
    a ratio see one crop.
    """

    name: Literal["mdpo"] = "mdpo"
    beta: Beta = 0.1
    """Of all three terms."""
    negative: Negative = "rejected"
    """The answer y_l."""
    image_weight: Weight = 1.0
    """0 is the paper's ablation without the conditional term."""
    anchor_weight: Weight = 1.0
    """0 is the paper's ablation without the anchor."""
    anchor_delta: float = 0.0
    """What beta d(y|m) is held against; 0 in the released code."""

    @property
    def views(self) -> frozenset[View]:
        """DPO's two, and the crop."""
        return frozenset(text_pair(self.negative)) | ({_CROPPED} if self.image_weight else set())

    def __call__(self, policy: LogProbs, reference: LogProbs) -> LossOutput:
        """See the class."""
        d = log_ratios(self, policy, reference)
        good, bad = text_pair(self.negative)
        terms = [Term("text", self.beta * (d[good] - d[bad]))]
        if self.image_weight:
            terms.append(Term("crop", self.beta * (d[good] - d[_CROPPED]), self.image_weight))
        if self.anchor_weight:
            anchor = self.beta * d[good] - self.anchor_delta
            terms.append(Term("anchor", anchor, self.anchor_weight, compares=False))
        return combine(terms, d)
