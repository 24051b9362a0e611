"""Makes pairs of a good and a bad answer from judged ones. Knows scores and words."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Le
from pydantic import Discriminator

from schemas.records import Drop, Reason
from schemas.texts import AnswerPair, Judged
from stages import wording
from stages.base import RecordStage

Score = Annotated[float, Ge(0), Le(10)]


@dataclass(frozen=True)
class Scored:
    """An answer with its score."""

    text: str
    """The answer."""
    times: int
    """How many samples were it."""
    score: int
    """0 to 10."""


@dataclass(frozen=True)
class PaperRule:
    """OViP as its paper has it (arXiv 2505.15963): r+ - r- > max(delta, 2 sigma), both thresholds.

    The spread is taken over all samples, equal ones included.
    """

    name: Literal["paper"] = "paper"
    """Selects this rule."""
    margin: Score = 3.0
    """delta: the scores must lie further apart than this."""
    deviations: Annotated[float, Ge(0)] = 2.0
    """... and further than so many standard deviations of the seed's scores."""
    good_above: Score = 5.0
    """tau_pos: the better answer's score must be above."""
    bad_below: Score = 5.0
    """tau_neg: the worse answer's score must be below."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    def pairs(self, ranked: Sequence[Scored]) -> tuple[int, str]:
        """How many of the (i-th best, i-th worst) are pairs, from the first on."""
        scores = [a.score for a in ranked for _ in range(a.times)]
        least = max(self.margin, self.deviations * _deviation(scores))
        limit = (
            f"a margin above {least:.2f}, above {self.good_above:g} and below {self.bad_below:g}"
        )
        return _leading(
            ranked,
            lambda good, bad: (
                good - bad > least and good > self.good_above and bad < self.bad_below
            ),
        ), limit

    def is_bad(self, score: int) -> bool:
        """Whether an answer of this score may stand against the reference."""
        return score < self.bad_below


@dataclass(frozen=True)
class CodeRule:
    """OViP as its released code has it; different answers only.

    Few answers make one pair at most, by a fixed margin. Of more, the best is paired with the
    worst, the second best with the second worst, while they lie further apart than the spread. The
    worse answer's own score is not looked at.
    """

    name: Literal["code"] = "code"
    """Selects this rule."""
    few: Annotated[int, Ge(0)] = 4
    """Up to so many different answers the margin is fixed."""
    few_margin: Score = 4.0
    """The fixed margin; enough if it is met."""
    deviations: Annotated[float, Ge(0)] = 2.0
    """Of more answers a pair lies further apart than so many standard deviations."""
    least_deviation: Annotated[float, Ge(0)] = 1.5
    """The standard deviation is taken for at least this."""
    good_from: Score = 6.0
    """The better answer has at least this score."""
    bad_up_to: Score = 5.0
    """The worst answer may stand against the reference if its score is at most this."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    def pairs(self, ranked: Sequence[Scored]) -> tuple[int, str]:
        """How many of the (i-th best, i-th worst) are pairs, from the first on."""
        if len(ranked) <= self.few:
            found = _leading(
                (ranked[0], ranked[-1]) if len(ranked) > 1 else (),
                lambda good, bad: good - bad >= self.few_margin and good >= self.good_from,
            )
            return found, f"a margin of {self.few_margin:g}, from {self.good_from:g} on"
        deviation = max(self.least_deviation, _deviation([a.score for a in ranked]))
        least = self.deviations * deviation
        found = _leading(ranked, lambda good, bad: good - bad > least and good >= self.good_from)
        return found, f"a margin above {least:.2f}, from {self.good_from:g} on"

    def is_bad(self, score: int) -> bool:
        """Whether an answer of this score may stand against the reference."""
        return score <= self.bad_up_to


@dataclass(frozen=True)
class AnswerPairer(RecordStage[Judged, AnswerPair]):
    """Pairs the best answer with the worst, the second best with the second worst, by the rule.

    Where the rule allows none, the worst answer stands against the reference, if bad enough.
    """

    rule: Annotated[PaperRule | CodeRule, Discriminator("name")] = field(default_factory=PaperRule)
    """What makes a pair."""
    max_pairs: Annotated[int, Ge(1)] = 4
    """Most pairs of one seed; each becomes an image."""
    reference: bool = True
    """Whether the reference may stand in where no sampled answer is good enough."""

    def process_one(self, record: Judged) -> Sequence[AnswerPair] | Drop:
        """The pairs, or NO_ANSWER_PAIR with the scores and what would have made one."""
        answers = [
            Scored(answer.text, answer.times, score)
            for answer, score in zip(record.sampled.answers, record.scores, strict=True)
            if score is not None
        ]
        ranked = sorted(answers, key=lambda a: -a.score)  # equal scores in the order they came
        found, limit = self.rule.pairs(ranked)
        pairs = [
            AnswerPair(record, good.text, good.score, bad.text, bad.score)
            for good, bad in zip(ranked[:found], ranked[::-1], strict=False)
            if wording.difference(good.text, bad.text) is not None
        ]
        worst = ranked[-1]
        if (
            not pairs
            and self.reference
            and self.rule.is_bad(worst.score)
            and wording.difference(record.seed.chosen, worst.text) is not None
        ):
            pairs = [AnswerPair(record, record.seed.chosen, None, worst.text, worst.score)]
        if not pairs:
            scores = " ".join(str(answer.score) for answer in ranked)
            missing = len(record.scores) - len(answers)
            failed = f", {missing} without a score" if missing else ""
            return Drop(Reason.NO_ANSWER_PAIR, f"scores {scores}{failed}; a pair needs {limit}")
        return pairs[: self.max_pairs]


def _leading(ranked: Sequence[Scored], fits: Callable[[int, int], bool]) -> int:
    """How many of the (i-th best, i-th worst) fit, up to the first that does not."""
    for i in range(len(ranked) // 2):
        if not fits(ranked[i].score, ranked[-1 - i].score):
            return i
    return len(ranked) // 2


def _deviation(scores: Sequence[int]) -> float:
    """Sample standard deviation; 0 of fewer than two."""
    return statistics.stdev(scores) if len(scores) > 1 else 0.0
