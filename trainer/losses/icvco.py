"""IC-VCO, arXiv 2605.31312: the pair seen image by image, and both images in one prompt.

There a last sentence names the image that is asked about; in VCDist that branch teaches the first.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal

import torch
from pydantic import Field
from pydantic.dataclasses import dataclass
from torch import Tensor

from trainer.losses.base import LogProbs, LossOutput, PreferenceLoss, log_ratios
from trainer.losses.terms import STRICT, Beta, Term, Weight, combine, logistic, metrics
from trainer.losses.views import Answer, Images, Tokens, View

_BRANCHES = 2
"""The released code takes the mean over single and multi; the paper their sum."""

_DIRECTIONS = 2
"""Likewise: each branch has 2B rows, a pair seen from either side, and takes their mean."""

_SIDES = ((Images.CHOSEN, Answer.CHOSEN), (Images.REJECTED, Answer.COUNTERFACTUAL))
"""Which answer is true of which image."""


@dataclass(frozen=True, config=STRICT)
class ICVCO(PreferenceLoss):
    """Mean of two branches (IC-VCO:vco_trainer.py:1072-1119), each over both sides of the pair.

    With y_i the answer true of image m_i, and y_j the other one:

    single: beta [d(y_i|m_i) - d(y_j|m_i)], over the differing tokens alone (1252-1257, 1343-1347)
    multi:  beta [d(y_i|P_i) - d(y_j|P_i)], over all tokens, where the prompt P_i shows both images
            and ends with a sentence that names m_i (1453-1460)
    anchor: beta d(y_i|m_i) - delta, and the same with P_i (1786-1816)
    VCDist: binary cross-entropy of the single margin against sigmoid(multi margin), the teacher,
            without gradient; only where the teacher is right (p > threshold) and surer than the
            student (q < p); the mean over the rows that pass both gates (1642-1705), 0 if none do

    The defaults are the weights that the release declares. After the mean over branches they are
    0.875 for DPO and anchor of the single branch, 0.375 for those of the multi branch, 0.2 for
    VCDist. What its code does is another thing: it adds the anchor to the DPO term in place before
    that is weighted (1402, 1618), so its anchors count 1.75 and 0.75: `anchor_counted_twice`.

    With a branch's weights at 0 the mean is still over two; the released code would drop the half.
    """

    name: Literal["icvco"] = "icvco"
    beta: Beta = 0.1
    """Of every term (145-197)."""
    single_weight: Weight = 1.75
    """Of the DPO term of the single branch (scripts/train.sh:285-292)."""
    multi_weight: Weight = 0.75
    """Of the DPO term of the multi branch."""
    single_anchor_weight: Weight = 1.75
    """Of the anchor of the single branch."""
    multi_anchor_weight: Weight = 0.75
    """Of the anchor of the multi branch."""
    anchor_delta: float = 0.0
    """What beta d is held against."""
    vcdist_weight: Weight = 0.4
    """Of VCDist, which is part of the single branch."""
    vcdist_threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """The probability that the teacher must exceed."""
    anchor_counted_twice: bool = False
    """True repeats the released checkpoints' objective: each branch's DPO weight counts for its
    anchor, too."""

    def __post_init__(self) -> None:
        """Refuse a loss without a term."""
        if not self.views:
            raise ValueError("icvco with all weights 0 has no term: set one above 0")

    @property
    def views(self) -> frozenset[View]:
        """Eight: four with one image, masked, and four with both images; or those with weights."""
        found: set[View] = set()
        for branch, weight, anchor_weight in self._branches():
            for own, other in branch:
                if weight or self.vcdist_weight:
                    found |= {own, other}
                elif anchor_weight:
                    found |= {own}
        return frozenset(found)

    @property
    def mixes_rows(self) -> bool:
        """VCDist is a mean over the active rows."""
        return self.vcdist_weight > 0

    def __call__(self, policy: LogProbs, reference: LogProbs) -> LossOutput:
        """See the class."""
        d = log_ratios(self, policy, reference)
        terms = []
        for name, (branch, weight, anchor_weight) in zip(
            ("single", "multi"), self._branches(), strict=True
        ):
            for suffix, (own, other) in zip(("", "_mirrored"), branch, strict=True):
                if weight:
                    margin = self.beta * (d[own] - d[other])
                    terms.append(Term(f"{name}{suffix}", margin, _mean_of_both(weight)))
                if anchor_weight:
                    anchor = self.beta * d[own] - self.anchor_delta
                    terms.append(
                        Term(
                            f"{name}_anchor{suffix}",
                            anchor,
                            _mean_of_both(anchor_weight),
                            compares=False,
                        )
                    )
        if not self.vcdist_weight:
            return combine(terms, d)
        distilled, gates = self._vcdist(d)
        per_row = self.vcdist_weight / _BRANCHES * distilled
        if not terms:
            return LossOutput(per_row, metrics(terms, d) | gates)
        output = combine(terms, d, gates)
        return LossOutput(output.per_row + per_row, output.metrics)

    def _vcdist(self, d: Mapping[View, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """The distillation by row, its mean being the mean over active rows; and its metrics.

        On margins, not on probabilities: those are 1 in float32 from a margin of 17 on, and then
        the released code's loss stays at its clamp and its gradient is gone.
        """
        student, teacher = (
            self.beta * torch.stack([d[own] - d[other] for own, other in branch])
            for branch, _, _ in self._branches()
        )
        teacher = teacher.detach()
        right = teacher > math.log(self.vcdist_threshold / (1 - self.vcdist_threshold))
        surer = student.detach() < teacher
        active = right & surer
        # Not `binary_cross_entropy_with_logits`: that is inf - inf for a student at -inf.
        entropy = torch.sigmoid(teacher) * logistic(student) + (
            torch.sigmoid(-teacher) * logistic(-student)
        )
        closed = torch.where(active, entropy, 0.0)
        rows = active.shape[1]
        # No active row: the sum is 0, but still hangs on every parameter, as DDP wants it.
        distilled = closed.sum(0) * (rows / active.sum().clamp(min=1))
        kind = student.dtype
        gates = {
            "loss/vcdist": distilled.detach(),
            "gate/teacher_right": right.to(kind).mean(0),
            "gate/teacher_surer": surer.to(kind).mean(0),
            "gate/active": active.to(kind).mean(0),
        }
        return distilled, gates

    def _branches(self) -> tuple[tuple[list[tuple[View, View]], float, float], ...]:
        """Of single and multi: own and other cell by side, weight of DPO and of the anchor."""
        single, multi = [], []
        for image, answer in _SIDES:
            wrong = next(a for _, a in _SIDES if a is not answer)
            single.append((View(image, answer, Tokens.SPANS), View(image, wrong, Tokens.SPANS)))
            multi.append(
                (
                    View(Images.BOTH, answer, anchor=image),
                    View(Images.BOTH, wrong, anchor=image),
                )
            )
        again = float(self.anchor_counted_twice)
        return (
            (single, self.single_weight, self.single_anchor_weight + again * self.single_weight),
            (multi, self.multi_weight, self.multi_anchor_weight + again * self.multi_weight),
        )


def _mean_of_both(weight: float) -> float:
    return weight / _BRANCHES / _DIRECTIONS
