"""Supervised fine-tuning: how IC-VCO starts, before its reference is taken. No preference."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic.dataclasses import dataclass

from trainer.losses.base import LogProbs, LossOutput, PreferenceLoss, at_least_float32, check
from trainer.losses.terms import STRICT
from trainer.losses.views import Answer, Images, Quantity, View

_OWN = View(Images.CHOSEN, Answer.CHOSEN, quantity=Quantity.MEAN)
_MIRRORED = View(Images.REJECTED, Answer.COUNTERFACTUAL, quantity=Quantity.MEAN)


@dataclass(frozen=True, config=STRICT)
class SFT(PreferenceLoss):
    """-log p(y|m) per token, the mean over an answer's tokens first and then over the rows.

    So every row counts alike. The usual trainers' mean over all tokens of a batch lets long
    answers count for more; answers of one length give the same number.
    """

    name: Literal["sft"] = "sft"
    mirrored: bool = False
    """Whether the counterfactual under the rejected image is trained on as well, half and half."""

    @property
    def views(self) -> frozenset[View]:
        """The true answer, or both answers under their own image."""
        return frozenset({_OWN, _MIRRORED} if self.mirrored else {_OWN})

    @property
    def reference_views(self) -> frozenset[View]:
        """None: it compares with nothing."""
        return frozenset()

    def __call__(self, policy: LogProbs, reference: LogProbs) -> LossOutput:
        """See the class; `reference` may be empty."""
        check(self, policy, reference)
        views = sorted(self.views, key=lambda view: view.key)
        losses = torch.stack([-at_least_float32(policy[view]) for view in views])
        metrics = {
            f"loss/{view.key}": loss.detach() for view, loss in zip(views, losses, strict=True)
        }
        return LossOutput(losses.mean(0), metrics)
