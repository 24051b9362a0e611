"""Asking a chat model whether the two images of a candidate are what its answers say.

Knows candidates, prompts and the chat protocol. Two stages judge by it: the verifier at the end of
a chain, and an editor that tries again what went wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from schemas.ids import row_seed
from schemas.records import Candidate, Drop, Reason
from stages.language.chat import Form, Reply, Request, Sampling, Unanswered
from stages.language.prompting import Prompt, Values

Mode = Literal["edit", "pair", "contradiction"]
"""What is asked. "edit": both images are shown, and whether they differ as the contrast says, and
each answer is true of its image alone. "pair": only the latter, for images that were not made from
each other. "contradiction": only the rejected image is shown, for images that were made anew from
words, where `chosen` is known to be true of its own."""

Finding = Literal["yes", "no", "unsure"]


class PairFindings(Form):
    """What a model finds of the answers in both images."""

    reason: str = Field(description="what each image shows, and how they differ")
    a_of_first: Finding
    a_of_second: Finding
    b_of_first: Finding
    b_of_second: Finding

    def objections(self, *, has_counterfactual: bool) -> list[str]:
        """Why the pair must not pass, in words; [] if it may."""
        wrong = [
            (self.a_of_first != "yes", "chosen is not true of chosen_image"),
            (self.a_of_second != "no", "chosen is not false of rejected_image"),
        ]
        if has_counterfactual:
            wrong += [
                (self.b_of_first != "no", "counterfactual is not false of chosen_image"),
                (self.b_of_second != "yes", "counterfactual is not true of rejected_image"),
            ]
        return [words for is_wrong, words in wrong if is_wrong]


class EditFindings(PairFindings):
    """What a model finds in an edited image beside the original."""

    change_made: Finding
    rest_kept: Finding

    def objections(self, *, has_counterfactual: bool) -> list[str]:
        """As `PairFindings.objections`."""
        wrong = [
            (self.change_made != "yes", "the change was not made"),
            (self.rest_kept == "no", "other things changed"),
        ]
        found = [words for is_wrong, words in wrong if is_wrong]
        return found + super().objections(has_counterfactual=has_counterfactual)


class ImageFindings(Form):
    """What a model finds in a rejected image alone."""

    reason: str = Field(description="what the image shows of what the answers speak of")
    a_of_image: Finding
    b_of_image: Finding

    def objections(self, *, has_counterfactual: bool) -> list[str]:
        """As `PairFindings.objections`."""
        wrong = [(self.a_of_image != "no", "chosen is not false of rejected_image")]
        if has_counterfactual:
            wrong.append((self.b_of_image != "yes", "counterfactual is not true of it"))
        return [words for is_wrong, words in wrong if is_wrong]


Findings = PairFindings | ImageFindings


_FORMS: dict[Mode, type[Findings]] = {
    "edit": EditFindings,
    "pair": PairFindings,
    "contradiction": ImageFindings,
}


@dataclass(frozen=True)
class Ballot:
    """The votes on one candidate."""

    votes_for: int
    """Votes without an objection."""
    votes: int
    """Votes asked for."""
    detail: str
    """One line for a person: the count, and the objections with how often each was made."""
    raw: str
    """The replies, word for word, each on lines of its own."""
    failure: Unanswered | None
    """The first vote that came to nothing, if no other was cast either."""

    @property
    def accepted(self) -> bool:
        """Whether more than half of the votes asked for are for it; one that failed is not."""
        return 2 * self.votes_for > self.votes

    def drop(self) -> Drop:
        """The drop of a candidate that was not accepted."""
        if self.failure is not None:
            return self.failure.drop("checking the pair")
        return Drop(Reason.REFUTED, self.detail, self.raw)


@dataclass(frozen=True)
class Checker:
    """How candidates are checked. Built by a stage from its own settings."""

    prompt: Prompt
    """What the model is told."""
    sampling: Sampling
    """How replies are drawn."""
    votes: int
    """Replies for each candidate, drawn with different seeds."""
    mode: Mode
    """What is asked."""

    def __post_init__(self) -> None:
        """ValueError for settings that cannot work together."""
        needed = {"rejected_image", "chosen", "counterfactual"}
        allowed = {"prompt"}
        if self.mode != "contradiction":
            needed |= {"chosen_image"}
        if self.mode == "edit":
            allowed |= {"instruction", "target", "replacement"}
        self.prompt.require(needed, allowed)
        if self.votes > 1 and self.sampling.temperature == 0:
            raise ValueError(
                f"{self.votes} votes at temperature 0 are one vote counted {self.votes} times; "
                "set a temperature above 0, or votes to 1"
            )

    def requests(
        self, candidate: Candidate, stage: str, attempt: int = 0
    ) -> list[Request[Findings]]:
        """The votes to ask for.

        `stage` is the name of the stage that asks; with `attempt` it sets the seeds of the votes.
        """
        seed, first = candidate.seed, attempt * self.votes
        return [
            Request(
                self.prompt.messages(_values(candidate)),
                _FORMS[self.mode],
                self.sampling,
                row_seed(seed.run_seed, seed.seed_id, f"{stage}:vote", number),
            )
            for number in range(first, first + self.votes)
        ]

    def ballot(
        self, candidate: Candidate, replies: Sequence[Reply[Findings] | Unanswered]
    ) -> Ballot:
        """The replies to `requests`, counted."""
        return _ballot(replies, has_counterfactual=candidate.counterfactual is not None)


def _values(candidate: Candidate) -> Values:
    contrast = candidate.contrast
    return {
        "chosen_image": candidate.chosen_image,
        "rejected_image": candidate.rejected_image,
        "prompt": candidate.texts.prompt,
        "chosen": candidate.texts.chosen,
        "counterfactual": candidate.counterfactual,
        "instruction": contrast.instruction,
        "target": contrast.target,
        "replacement": contrast.replacement,
    }


def _ballot(results: Sequence[Reply[Findings] | Unanswered], *, has_counterfactual: bool) -> Ballot:
    objections: Counter[str] = Counter()
    failures = [result for result in results if isinstance(result, Unanswered)]
    votes_for = 0
    for result in results:
        if isinstance(result, Reply):
            found = result.value.objections(has_counterfactual=has_counterfactual)
            objections.update(found)
            votes_for += not found
    against = [f"{words} ({times})" for words, times in objections.most_common()]
    against += [f"no usable reply ({len(failures)})"] if failures else []
    detail = f"{votes_for} of {len(results)} votes for it"
    return Ballot(
        votes_for=votes_for,
        votes=len(results),
        detail=f"{detail}: {', '.join(against)}" if against else detail,
        raw="\n".join(result.raw for result in results),
        failure=failures[0] if len(failures) == len(results) else None,
    )
