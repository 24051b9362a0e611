"""Verifies with a chat model that the images differ as the contrast says and the answers fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import Ge

from schemas.records import Drop, ScoredCandidate, Verdict, VerifiedCandidate
from stages.language.chat import ChatBackend, Reply, Request, Sampling, Unanswered
from stages.language.prompting import Prompt, PromptField
from stages.language.stage import ManyRequestsStage
from stages.language.votes import Checker, Findings, Mode


@dataclass(frozen=True)
class ChatVerifier(ManyRequestsStage[ScoredCandidate, VerifiedCandidate, Findings]):
    """Asks for votes and goes by the majority.

    A vote is for the pair if it finds that the change was made and nothing else, that `chosen` is
    true of `chosen_image` and false of `rejected_image`, and that `counterfactual` is the reverse.
    Mode "pair" does not ask about a change: the images were found, or brought by somebody. In mode
    "contradiction" only `rejected_image` is shown and only the two answers are asked for:
    an image painted from words need not resemble the original (OViP, arXiv 2505.15963, reports
    9.41 % wrong ones without such a check). Adds the scores "votes_for" and "votes".
    """

    chat: ChatBackend
    """Who votes."""
    mode: Mode = "edit"
    """What is asked; each mode has its own kind of prompt."""
    prompt: PromptField = field(default_factory=lambda: Prompt("verify_edit"))
    """`verify_edit`, `verify_pair` or `verify_contradiction` by mode, or one's own."""
    votes: Annotated[int, Ge(1)] = 3
    """Replies for each candidate; more than half must be for it."""
    sampling: Sampling = field(default_factory=lambda: Sampling(temperature=0.7, top_p=0.95))
    """How a vote is drawn; above temperature 0, so that votes can differ."""

    def __post_init__(self) -> None:
        """ValueError for settings that cannot work together."""
        self._checker()

    def ask_all(self, record: ScoredCandidate) -> Sequence[Request[Findings]]:
        """The votes on a candidate."""
        return self._checker().requests(record.candidate, "chat_verifier")

    def conclude_all(
        self, record: ScoredCandidate, replies: Sequence[Reply[Findings] | Unanswered]
    ) -> Sequence[VerifiedCandidate] | Drop:
        """The verified candidate; REFUTED with the replies as evidence, or why none came."""
        ballot = self._checker().ballot(record.candidate, replies)
        if not ballot.accepted:
            return ballot.drop()
        votes = {"votes_for": float(ballot.votes_for), "votes": float(ballot.votes)}
        verdict = Verdict(accepted=True, verifier=self.chat.model, detail=ballot.detail)
        return [VerifiedCandidate(record.candidate, {**record.scores, **votes}, verdict)]

    def _checker(self) -> Checker:
        return Checker(self.prompt, self.sampling, self.votes, self.mode)
