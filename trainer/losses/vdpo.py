"""V-DPO, arXiv 2411.02712: DPO on the answers from the first token in which they differ."""

from __future__ import annotations

from typing import Literal

from pydantic.dataclasses import dataclass

from trainer.losses.base import LogProbs, LossOutput, PreferenceLoss, log_ratios
from trainer.losses.dpo import Negative
from trainer.losses.terms import STRICT, Beta, Term, Weight, combine
from trainer.losses.views import Answer, Images, Tokens, View

_OWN = View(Images.CHOSEN, Answer.CHOSEN)
_OTHER = View(Images.REJECTED, Answer.CHOSEN)


@dataclass(frozen=True, config=STRICT)
class VDPO(PreferenceLoss):
    """The step of the released trainer (YuxiXie/V-DPO:llava_dpo/train/llava_trainer.py:train_step).

    text:  beta [d*(y|m) - d*(y_l|m)], d* summed from the first token that differs to end-of-turn
           (`get_indexes` in llava_dpo/utils.py; commits 69e212c and 4a1ee98, there with gamma 1)
    image: beta [d(y|m) - d(y|m')], whole answers: the release's rows whose texts are equal and
           whose images differ, where it starts at the answer. Here a row may serve both.

    Not the paper's visual guidance, which puts gamma log p(y|m) - (gamma - 1) log p(y|no image) in
    the policy's place, the second without gradient. 4a1ee98 has it, over whole answers and with a
    blank image for none; its scripts leave gamma at 1. The last script (scripts/v1_5/vdpo.sh) sets
    gamma 0, which would leave nothing of the image in that formula; the trainer that it belongs to
    was not to be had.
    """

    name: Literal["vdpo"] = "vdpo"
    beta: Beta = 0.1
    """scale_coeff of scripts/v1_5/vdpo.sh."""
    negative: Negative = "rejected"
    """The answer y_l."""
    image_weight: Weight = 0.0
    """Of the image term; the script's data, RLHF-V, has no other images."""

    @property
    def views(self) -> frozenset[View]:
        """Two, or four with the image term."""
        return frozenset({*self._texts(), *([_OWN, _OTHER] if self.image_weight else [])})

    def __call__(self, policy: LogProbs, reference: LogProbs) -> LossOutput:
        """See the class."""
        d = log_ratios(self, policy, reference)
        good, bad = self._texts()
        terms = [Term("text", self.beta * (d[good] - d[bad]))]
        if self.image_weight:
            terms.append(Term("image", self.beta * (d[_OWN] - d[_OTHER]), self.image_weight))
        return combine(terms, d)

    def _texts(self) -> tuple[View, View]:
        wrong = Answer(self.negative)
        start = Tokens.FROM_FIRST_DIFFERENCE
        return (
            View(Images.CHOSEN, Answer.CHOSEN, start, against=wrong),
            View(Images.CHOSEN, wrong, start, against=Answer.CHOSEN),
        )
