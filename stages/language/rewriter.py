"""Captions of a pair become fluent answers that differ in the same point. Knows texts alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from pydantic import Field

from schemas.records import Drop, Reason, ScoredCandidate, Texts
from stages.language.chat import ChatBackend, Form, Reply, Request, Sampling
from stages.language.prompting import Prompt, PromptField
from stages.language.stage import ChatStage
from stages.wording import difference, differing_words


class RewriteForm(Form):
    """What the model fills in."""

    question: str = Field(description="the polished question")
    answer_a: str = Field(description="the answer for the image of caption A")
    answer_b: str = Field(description="the answer for the image of caption B")


@dataclass(frozen=True)
class Rewriter(ChatStage[ScoredCandidate, ScoredCandidate, RewriteForm]):
    """Rephrases question and both captions: second text step of MVC (arXiv 2502.13928).

    The contrast must stay: every word in which the captions differed must still be one in which
    the answers differ, so that the spans cover it. The input's `rejected` goes with the prompt.
    """

    task: ClassVar[str] = "rewriting the answers"

    chat: ChatBackend
    """Who writes."""
    prompt: PromptField = field(default_factory=lambda: Prompt("rewrite"))
    """What it is told."""
    sampling: Sampling = field(default_factory=lambda: Sampling(temperature=1.0, top_p=0.95))
    """How the texts are drawn: warm, so that answers do not all sound alike."""

    def __post_init__(self) -> None:
        """ValueError for a prompt with other placeholders."""
        self.prompt.require({"prompt", "chosen", "counterfactual"})

    def ask(self, record: ScoredCandidate) -> Request[RewriteForm]:
        """Question and both captions, to be rephrased."""
        candidate = record.candidate
        messages = self.prompt.messages(
            {
                "prompt": candidate.texts.prompt,
                "chosen": candidate.texts.chosen,
                "counterfactual": candidate.counterfactual,
            }
        )
        return self.request(messages, RewriteForm, candidate.seed, "rewriter")

    def conclude(
        self, record: ScoredCandidate, reply: Reply[RewriteForm]
    ) -> Sequence[ScoredCandidate] | Drop:
        """The candidate with new texts; CONTRAST_LOST where the answers say something else."""
        form, candidate = reply.value, record.candidate
        question, first, second = (
            " ".join(text.split()) for text in (form.question, form.answer_a, form.answer_b)
        )
        if not (question and first and second):
            return Drop(Reason.BAD_REPLY, "an empty question or answer", reply.raw)
        captions = (candidate.texts.chosen, candidate.counterfactual or "")
        before, after = differing_words(*captions), differing_words(first, second)
        lost = [", ".join(sorted(old - new)) for old, new in zip(before, after, strict=True)]
        if any(lost) or difference(first, second) is None:
            words = " / ".join(part for part in lost if part) or "anything"
            detail = f"the answers no longer differ in {words}"
            return Drop(Reason.CONTRAST_LOST, detail, reply.raw)
        rewritten = replace(
            candidate,
            # The input's wrong answer belongs to the prompt that was replaced.
            written=Texts(prompt=question, chosen=first, rejected=None),
            counterfactual=second,
            params={
                **candidate.params,
                "caption_chosen": captions[0],
                "caption_counterfactual": captions[1],
            },
        )
        return [replace(record, candidate=rewritten)]
