"""A question to which both captions of a pair are answers. Knows texts, not images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from pydantic import Field

from schemas.records import Drop, Reason, ScoredCandidate
from stages.language.chat import ChatBackend, Form, Reply, Request, Sampling
from stages.language.prompting import Prompt, PromptField
from stages.language.stage import ChatStage
from stages.wording import differing_words, tokenize


class QuestionForm(Form):
    """What the model fills in."""

    contrast: str = Field(description="the point in which the captions differ")
    question: str = Field(description="one question to which both captions are answers")


@dataclass(frozen=True)
class Questioner(ChatStage[ScoredCandidate, ScoredCandidate, QuestionForm]):
    """Writes the prompt of pairs whose answers are captions: first text step of MVC.

    (arXiv 2502.13928: one conversational question for which both captions are natural answers.)
    The input's `rejected` goes with the prompt it was an answer to.
    """

    task: ClassVar[str] = "writing the question"

    chat: ChatBackend
    """Who asks."""
    prompt: PromptField = field(default_factory=lambda: Prompt("question"))
    """What it is told."""
    sampling: Sampling = field(default_factory=lambda: Sampling(temperature=0.7, top_p=0.95))
    """How the question is drawn."""

    def __post_init__(self) -> None:
        """ValueError for a prompt with other placeholders."""
        self.prompt.require({"chosen", "counterfactual"})

    def ask(self, record: ScoredCandidate) -> Request[QuestionForm]:
        """A question for both captions."""
        candidate = record.candidate
        messages = self.prompt.messages(
            {"chosen": candidate.texts.chosen, "counterfactual": candidate.counterfactual}
        )
        return self.request(messages, QuestionForm, candidate.seed, "questioner")

    def conclude(
        self, record: ScoredCandidate, reply: Reply[QuestionForm]
    ) -> Sequence[ScoredCandidate] | Drop:
        """The candidate with its question; BAD_REPLY for one that gives the contrast away."""
        question = " ".join(reply.value.question.split())
        if not question.endswith("?"):
            return Drop(Reason.BAD_REPLY, f"not a question: {question!r:.200}", reply.raw)
        candidate = record.candidate
        texts = candidate.texts
        asked = {token.text.casefold() for token in tokenize(question)}
        of_chosen, of_other = differing_words(texts.chosen, candidate.counterfactual or "")
        # A question may offer both ("left or right?"), but not one of them alone.
        if bool(of_chosen & asked) != bool(of_other & asked):
            told = ", ".join(sorted((of_chosen | of_other) & asked))
            detail = f"the question gives the contrast away: {told}"
            return Drop(Reason.BAD_REPLY, detail, reply.raw)
        # The input's wrong answer belongs to the prompt that was replaced.
        written = replace(texts, prompt=question, rejected=None)
        return [replace(record, candidate=replace(candidate, written=written))]
