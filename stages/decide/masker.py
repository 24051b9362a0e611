"""Mark the words in which the answer and its counterfactual differ. Knows text only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from schemas.records import Drop, Reason, SpannedCandidate, VerifiedCandidate
from stages.base import RecordStage
from stages.wording import difference


@dataclass(frozen=True)
class Masker(RecordStage[VerifiedCandidate, SpannedCandidate]):
    """Word-level difference of `chosen` and `counterfactual` as character spans.

    See `difference` for the rules. Without a counterfactual there are no spans. Texts that differ
    in no word are dropped: nothing in them can be preferred.
    """

    def process_one(self, record: VerifiedCandidate) -> Sequence[SpannedCandidate] | Drop:
        """The candidate with its spans, or a drop where the words are the same."""
        candidate = record.candidate
        if candidate.counterfactual is None:
            return [SpannedCandidate(record, (), ())]
        spans = difference(candidate.texts.chosen, candidate.counterfactual)
        if spans is None:
            return Drop(
                Reason.NO_TEXT_DIFFERENCE, "the counterfactual has the same words as the answer"
            )
        return [SpannedCandidate(record, *spans)]
