"""A question to which both captions of a pair are answers. Knows texts, not images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from pydantic import Field

from schemas.ids import row_seed
from schemas.records import Drop, Reason, ScoredCandidate
from stages.base import Backend, Stage
from stages.language.chat import ChatBackend, Form, Reply, Request, Sampling, Unanswered
from stages.language.prompting import Prompt, PromptField
from stages.wording import differing_words, tokenize

NAME = "questioner"


class QuestionForm(Form):
    """What the model fills in."""

    contrast: str = Field(description="the point in which the captions differ")
    question: str = Field(description="one question to which both captions are answers")


@dataclass(frozen=True)
class Questioner(Stage[ScoredCandidate, ScoredCandidate]):
    """Writes the prompt of pairs whose answers are captions: first text step of MVC.

    (arXiv 2502.13928: one conversational question for which both captions are natural answers.)
    The input's `rejected` goes with the prompt it was an answer to.
    """

    consumes: ClassVar[type] = ScoredCandidate
    produces: ClassVar[type] = ScoredCandidate

    chat: ChatBackend
    """Who asks."""
    prompt: PromptField = field(default_factory=lambda: Prompt("question"))
    """What it is told."""
    sampling: Sampling = field(default_factory=lambda: Sampling(temperature=0.7, top_p=0.95))
    """How the question is drawn."""

    def __post_init__(self) -> None:
        """ValueError for a prompt with other placeholders."""
        self.prompt.require({"chosen", "counterfactual"})

    def backends(self) -> Sequence[Backend]:
        """The model."""
        return (self.chat,)

    def process(
        self, batch: Sequence[ScoredCandidate]
    ) -> Sequence[Sequence[ScoredCandidate] | Drop]:
        """The candidates with their question; BAD_REPLY for one that gives the contrast away."""
        requests = [
            Request(
                self.prompt.messages(
                    {
                        "chosen": record.candidate.seed.chosen,
                        "counterfactual": record.candidate.counterfactual,
                    }
                ),
                QuestionForm,
                self.sampling,
                row_seed(record.candidate.seed.run_seed, record.candidate.seed.seed_id, NAME),
            )
            for record in batch
        ]
        results = self.chat.chat(requests)
        return [_asked(record, result) for record, result in zip(batch, results, strict=True)]


def _asked(
    record: ScoredCandidate, result: Reply[QuestionForm] | Unanswered
) -> Sequence[ScoredCandidate] | Drop:
    if isinstance(result, Unanswered):
        return result.drop("writing the question")
    question = " ".join(result.value.question.split())
    if not question.endswith("?"):
        return Drop(Reason.BAD_REPLY, f"not a question: {question!r:.200}", result.raw)
    candidate = record.candidate
    asked = {token.text.casefold() for token in tokenize(question)}
    of_chosen, of_other = differing_words(candidate.seed.chosen, candidate.counterfactual or "")
    # A question may offer both ("left or right?"), but not one of them alone.
    if bool(of_chosen & asked) != bool(of_other & asked):
        told = ", ".join(sorted((of_chosen | of_other) & asked))
        return Drop(Reason.BAD_REPLY, f"the question gives the contrast away: {told}", result.raw)
    # The input's wrong answer answers the question that was replaced.
    seed = replace(candidate.seed, prompt=question, rejected=None)
    return [replace(record, candidate=replace(candidate, seed=seed))]
