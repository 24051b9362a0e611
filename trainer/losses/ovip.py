"""OViP, arXiv 2505.15963: DPO, and the true answer under its image, none and a negative image.

The loss alone: sampling answers and drawing images is not the trainer's.
"""

from __future__ import annotations

from typing import Literal

from pydantic.dataclasses import dataclass

from trainer.losses.base import LogProbs, LossOutput, PreferenceLoss, log_ratios
from trainer.losses.dpo import Negative, text_pair
from trainer.losses.terms import STRICT, Beta, Term, Weight, combine
from trainer.losses.views import Answer, Images, View

_NONE = View(Images.NONE, Answer.CHOSEN)
_OTHER = View(Images.REJECTED, Answer.CHOSEN)


@dataclass(frozen=True, config=STRICT)
class OViP(PreferenceLoss):
    """The text term beta [d(y|m) - d(y_l|m)], and one or two image terms.

    With shown = d(y|m) - d(y|none) and absent = d(y|none) - d(y|m'):

    * form "paper" (eq 5): one term, beta [shown + absent]. With one beta the image-free cell
      cancels: what is left is beta [d(y|m) - d(y|m')], so that cell is not even filled;
    * form "released" (OViP:trainer.py:268-280, 480-489): two terms, beta shown and beta absent. At
      margins of +2 and -2 the first form gives 0.69, the second 2.25.

    The released code weights the image terms by one half unless started with --not_half_dpo_loss,
    as its README does: `image_weight=0.5`.
    """

    name: Literal["ovip"] = "ovip"
    form: Literal["paper", "released"] = "paper"
    """Which of the two; the released checkpoints come from the second."""
    beta: Beta = 0.1
    """Of all terms."""
    negative: Negative = "rejected"
    """The answer y_l: in OViP's own data the one that the negative image was drawn from."""
    image_weight: Weight = 1.0
    """Of the image term, or of each of the two."""
    anchor_weight: Weight = 0.0
    """Of an mDPO-style anchor beta d(y|m); 0 in the README's command, 0.999 as code default."""

    @property
    def views(self) -> frozenset[View]:
        """Three in the paper's form, four in the released one."""
        found = set(text_pair(self.negative))
        if self.image_weight:
            found |= {_OTHER} if self.form == "paper" else {_OTHER, _NONE}
        return frozenset(found)

    def __call__(self, policy: LogProbs, reference: LogProbs) -> LossOutput:
        """See the class."""
        d = log_ratios(self, policy, reference)
        good, bad = text_pair(self.negative)
        terms = [Term("text", self.beta * (d[good] - d[bad]))]
        if self.image_weight and self.form == "paper":
            terms.append(Term("image", self.beta * (d[good] - d[_OTHER]), self.image_weight))
        elif self.image_weight:
            terms += [
                Term("shown", self.beta * (d[good] - d[_NONE]), self.image_weight),
                Term("absent", self.beta * (d[_NONE] - d[_OTHER]), self.image_weight),
            ]
        if self.anchor_weight:
            terms.append(Term("anchor", self.beta * d[good], self.anchor_weight, compares=False))
        return combine(terms, d)
