"""CHiP, arXiv 2501.16629: responses, segments and tokens in one margin, and a noised image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from trainer.losses.base import (
    LogProbs,
    LossOutput,
    PreferenceLoss,
    at_least_float32,
    log_ratios,
)
from trainer.losses.dpo import Negative
from trainer.losses.terms import STRICT, Beta, Term, Weight, logistic, metrics
from trainer.losses.views import Answer, Images, Quantity, Tokens, View


@dataclass(frozen=True, config=STRICT)
class CHiP(PreferenceLoss):
    """-log sigmoid of one sum, as released (LVUGAI/CHiP:llava/train/llava_trainer.py:chip_loss).

    beta { [w(y|m) - w(y_l|m)] + [w(y|m) - w(y|noised m)] - token_beta [K(y_l) - K(y)] }

    w is a log-ratio over all tokens in which those that differ between y and y_l count
    `segment_weight` times (get_seg_weight). K is KL(reference || policy) over the vocabulary,
    summed over an answer's places under m; K(y) has no gradient (chip_get_batch_logps; TDPO's
    second form).

    The paper writes the levels as losses of their own; the release adds their margins. Two things
    of its code are not repeated: it multiplies the reference's sum under the noised image by the
    sum of the weights (compute_weighted_logp of a number a row), which moves the margin by
    thousands of nats, and its reference model sees the wrong answer under noise for nothing. The
    difference is that of RLHF-V's `get_diff_ids`, which was not to be had: written from its calls.
    """

    name: Literal["chip"] = "chip"
    beta: Beta = 0.1
    """Of the whole margin (chip_loss)."""
    negative: Negative = "rejected"
    """The answer y_l."""
    segment_weight: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 4.0
    """How often a differing token counts: --dpo_token_weight of scripts/chip.sh; 2 for Muffin; 1
    turns the segment level off."""
    token_beta: Weight = 0.1
    """Of the difference of the KLs: --tok_beta. 0 turns the token level off."""
    image_weight: Weight = 1.0
    """Of the comparison with the noised image; 0 turns it off."""

    @property
    def views(self) -> frozenset[View]:
        """Up to eight: sums and differing tokens of three cells, KL of two."""
        found = set()
        for view in self._cells():
            found |= {view} | ({self._differing(view)} if self.segment_weight > 1 else set())
        return frozenset(found | (set(self._kl()) if self.token_beta else set()))

    def __call__(self, policy: LogProbs, reference: LogProbs) -> LossOutput:
        """See the class."""
        d = log_ratios(self, policy, reference)
        good, bad, *noised = (self._weighted(d, view) for view in self._cells())
        text = self.beta * (good - bad)
        terms = [Term("text", text)]
        margin = text
        found: dict[str, Tensor] = {}
        if noised:
            terms.append(Term("noised", self.beta * (good - noised[0])))
            margin = margin + self.image_weight * terms[-1].margin
        if self.token_beta:
            right, wrong = (at_least_float32(policy[view]) for view in self._kl())
            margin = margin - self.beta * self.token_beta * (wrong - right.detach())
            found = {"kl/chosen": right.detach(), "kl/negative": wrong.detach()}
        return LossOutput(logistic(margin), metrics(terms, d) | found)

    def _cells(self) -> list[View]:
        """The true answer, the wrong one, and the true one under the noised image."""
        own = View(Images.CHOSEN, Answer.CHOSEN)
        wrong = View(Images.CHOSEN, Answer(self.negative))
        noised = View(Images.NOISED, Answer.CHOSEN)
        return [own, wrong, *([noised] if self.image_weight else [])]

    def _differing(self, view: View) -> View:
        right, wrong = Answer.CHOSEN, Answer(self.negative)
        other = wrong if view.answer is right else right
        return View(view.images, view.answer, Tokens.DIFFERING, against=other)

    def _weighted(self, d: Mapping[View, Tensor], view: View) -> Tensor:
        if self.segment_weight == 1:
            return d[view]
        return d[view] + (self.segment_weight - 1) * d[self._differing(view)]

    def _kl(self) -> tuple[View, View]:
        """The KL cells of the true and the wrong answer."""
        return (
            View(Images.CHOSEN, Answer.CHOSEN, quantity=Quantity.KL),
            View(Images.CHOSEN, Answer(self.negative), quantity=Quantity.KL),
        )
