"""S-VCO, arXiv 2502.13928: own image over no image over the other image, for either answer."""

from __future__ import annotations

from typing import Literal

from pydantic.dataclasses import dataclass

from trainer.losses.base import LogProbs, LossOutput, PreferenceLoss, log_ratios
from trainer.losses.terms import STRICT, Term, Weight, combine
from trainer.losses.views import Answer, Images, View


@dataclass(frozen=True, config=STRICT)
class SVCO(PreferenceLoss):
    """Four logistic terms, each with its own beta, unweighted sum (s-vco:trainer.py:169-215, 389).

    shown:           beta [d(y|m) - d(y|none)]
    absent:          beta [d(y|none) - d(y|m')]
    shown_mirrored:  beta [d(y'|m') - d(y'|none)]
    absent_mirrored: beta [d(y'|none) - d(y'|m)]

    A beta of 0 removes its term, here in evaluation, too; the released code falls back to 0.1
    there. The paper has two betas, the code four; all are 0.1 (run_svco_example.sh:21-24).
    """

    name: Literal["svco"] = "svco"
    beta_shown: Weight = 0.1
    """The true answer: its image over none."""
    beta_absent: Weight = 0.1
    """The true answer: no image over the other one."""
    beta_shown_mirrored: Weight = 0.1
    """The counterfactual: its image over none."""
    beta_absent_mirrored: Weight = 0.1
    """The counterfactual: no image over the original."""

    def __post_init__(self) -> None:
        """Refuse a loss without a term."""
        if not self._comparisons():
            raise ValueError("svco with all four betas 0 has no term: set one above 0")

    @property
    def views(self) -> frozenset[View]:
        """Up to six: either answer under its image, under none, under the other image."""
        return frozenset(view for _, _, *pair in self._comparisons() for view in pair)

    def __call__(self, policy: LogProbs, reference: LogProbs) -> LossOutput:
        """See the class."""
        d = log_ratios(self, policy, reference)
        terms = [
            Term(name, beta * (d[better] - d[worse]))
            for name, beta, better, worse in self._comparisons()
        ]
        return combine(terms, d)

    def _comparisons(self) -> list[tuple[str, float, View, View]]:
        """Name, beta, better and worse cell of each term that is on."""
        own, none, other = (
            View(images, Answer.CHOSEN) for images in (Images.CHOSEN, Images.NONE, Images.REJECTED)
        )
        own2, none2, other2 = (
            View(images, Answer.COUNTERFACTUAL)
            for images in (Images.REJECTED, Images.NONE, Images.CHOSEN)
        )
        table = [
            ("shown", self.beta_shown, own, none),
            ("absent", self.beta_absent, none, other),
            ("shown_mirrored", self.beta_shown_mirrored, own2, none2),
            ("absent_mirrored", self.beta_absent_mirrored, none2, other2),
        ]
        return [row for row in table if row[1]]
