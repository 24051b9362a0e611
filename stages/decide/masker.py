"""Mark the words in which the answers of a pair differ. Knows text only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from schemas.records import Drop, Reason, SpannedCandidate, VerifiedCandidate
from stages.base import RecordStage
from stages.wording import difference


@dataclass(frozen=True)
class Masker(RecordStage[VerifiedCandidate, SpannedCandidate]):
    """Word-level difference of `chosen` and `counterfactual` as character spans, and of `rejected`.

    See `difference` for the rules. `rejected_spans` mark `rejected` against `chosen`. Without a
    counterfactual there are no other spans. A row whose counterfactual has the same words as
    `chosen` is dropped, since nothing in it can be preferred; a `rejected` with the same words just
    has no spans.
    """

    def process_one(self, record: VerifiedCandidate) -> Sequence[SpannedCandidate] | Drop:
        """The candidate with its spans, or a drop where the words are the same."""
        candidate = record.candidate
        chosen, rejected = candidate.texts.chosen, candidate.texts.rejected
        of_rejected = None
        if rejected is not None:
            _, of_rejected = difference(chosen, rejected) or ((), ())
        if candidate.counterfactual is None:
            return [SpannedCandidate(record, (), (), of_rejected)]
        spans = difference(chosen, candidate.counterfactual)
        if spans is None:
            return Drop(
                Reason.NO_TEXT_DIFFERENCE, "the counterfactual has the same words as the answer"
            )
        return [SpannedCandidate(record, *spans, of_rejected)]
