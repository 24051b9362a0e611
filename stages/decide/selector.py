"""Chooses among the candidates of one seed by a score. Knows scores, not pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from annotated_types import Ge

from schemas.records import Drop, Reason, VerifiedCandidate
from stages.base import GroupStage


@dataclass(frozen=True)
class Selector(GroupStage[VerifiedCandidate]):
    """Keeps the first few candidates of each seed in the order of one score.

    AdaViP (arXiv 2504.15619) keeps the one least similar to the answer: "lowest", `keep=1`.
    It chooses among verified candidates, so that one that fails never displaces one that passes. Of
    equal scores the earlier candidate comes first, in the order of the regions. A seed without a
    verified candidate forms no group; each of its drops says why.
    """

    by: str = "detail"
    """Name of the score."""
    order: Literal["lowest", "highest"] = "lowest"
    """Which end of the score is kept."""
    keep: Annotated[int, Ge(1)] = 1
    """Most candidates kept for each seed."""

    def select(self, group: Sequence[VerifiedCandidate]) -> Sequence[VerifiedCandidate | Drop]:
        """The kept candidates and NOT_SELECTED drops, in the order of the group.

        ValueError if a candidate lacks the score, or has NaN for it.
        """
        values = [self._value(candidate) for candidate in group]
        sign = 1 if self.order == "lowest" else -1
        ranking = sorted(range(len(group)), key=lambda i: sign * values[i])
        outcomes: list[VerifiedCandidate | Drop] = list(group)
        for place, i in enumerate(ranking[self.keep :], start=self.keep + 1):
            last = values[ranking[self.keep - 1]]
            outcomes[i] = Drop(
                Reason.NOT_SELECTED,
                f"rank {place} of {len(group)} by {self.by}: {values[i]:.4f} (kept {last:.4f})",
            )
        return outcomes

    def _value(self, candidate: VerifiedCandidate) -> float:
        value = candidate.scores.get(self.by)
        if value is None:
            raise ValueError(
                f'no score "{self.by}" to select by; the candidate has {sorted(candidate.scores)}'
            )
        if math.isnan(value):
            raise ValueError(f'score "{self.by}" is NaN; nothing can be ranked by it')
        return value
