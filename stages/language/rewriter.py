"""Captions of a pair become fluent answers that differ in the same point. Knows texts alone."""

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
from stages.wording import difference, differing_words

NAME = "rewriter"


class RewriteForm(Form):
    """What the model fills in."""

    question: str = Field(description="the polished question")
    answer_a: str = Field(description="the answer for the image of caption A")
    answer_b: str = Field(description="the answer for the image of caption B")


@dataclass(frozen=True)
class Rewriter(Stage[ScoredCandidate, ScoredCandidate]):
    """Rephrases question and both captions: second text step of MVC (arXiv 2502.13928).

    The contrast must stay: every word in which the captions differed must still be one in which
    the answers differ, so that the spans cover it. The input's `rejected` goes with the prompt.
    """

    consumes: ClassVar[type] = ScoredCandidate
    produces: ClassVar[type] = ScoredCandidate

    chat: ChatBackend
    """Who writes."""
    prompt: PromptField = field(default_factory=lambda: Prompt("rewrite"))
    """What it is told."""
    sampling: Sampling = field(default_factory=lambda: Sampling(temperature=1.0, top_p=0.95))
    """How the texts are drawn: warm, so that answers do not all sound alike."""

    def __post_init__(self) -> None:
        """ValueError for a prompt with other placeholders."""
        self.prompt.require({"prompt", "chosen", "counterfactual"})

    def backends(self) -> Sequence[Backend]:
        """The model."""
        return (self.chat,)

    def process(
        self, batch: Sequence[ScoredCandidate]
    ) -> Sequence[Sequence[ScoredCandidate] | Drop]:
        """The candidates with new texts; CONTRAST_LOST where the answers say something else."""
        requests = [
            Request(
                self.prompt.messages(
                    {
                        "prompt": record.candidate.seed.prompt,
                        "chosen": record.candidate.seed.chosen,
                        "counterfactual": record.candidate.counterfactual,
                    }
                ),
                RewriteForm,
                self.sampling,
                row_seed(record.candidate.seed.run_seed, record.candidate.seed.seed_id, NAME),
            )
            for record in batch
        ]
        results = self.chat.chat(requests)
        return [_rewritten(record, result) for record, result in zip(batch, results, strict=True)]


def _rewritten(
    record: ScoredCandidate, result: Reply[RewriteForm] | Unanswered
) -> Sequence[ScoredCandidate] | Drop:
    if isinstance(result, Unanswered):
        return result.drop("rewriting the answers")
    form, candidate = result.value, record.candidate
    question, first, second = (
        " ".join(text.split()) for text in (form.question, form.answer_a, form.answer_b)
    )
    if not (question and first and second):
        return Drop(Reason.BAD_REPLY, "an empty question or answer", result.raw)
    before = differing_words(candidate.seed.chosen, candidate.counterfactual or "")
    after = differing_words(first, second)
    lost = [", ".join(sorted(old - new)) for old, new in zip(before, after, strict=True)]
    if any(lost) or difference(first, second) is None:
        words = " / ".join(part for part in lost if part) or "anything"
        return Drop(
            Reason.CONTRAST_LOST,
            f"the answers no longer differ in {words}",
            result.raw,
        )
    captions = {
        "caption_chosen": candidate.seed.chosen,
        "caption_counterfactual": candidate.counterfactual or "",
    }
    return [
        replace(
            record,
            candidate=replace(
                candidate,
                # The input's wrong answer answers the question that was replaced.
                seed=replace(candidate.seed, prompt=question, chosen=first, rejected=None),
                counterfactual=second,
                params={**candidate.params, **captions},
            ),
        )
    ]
