"""Scores sampled answers against the reference with a language model (OViP's critic)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from pydantic import Field

from schemas.records import Drop
from schemas.texts import Judged, Sampled
from stages.language.chat import ChatBackend, Form, Reply, Request, Sampling, Unanswered
from stages.language.prompting import Prompt, PromptField
from stages.language.stage import ManyRequestsStage


class Grade(Form):
    """What the judge fills in."""

    reason: str = Field(description="what is right and what is wrong, in one sentence")
    score: int = Field(ge=0, le=10, description="0 (wrong) to 10 (right)")


@dataclass(frozen=True)
class Judge(ManyRequestsStage[Sampled, Judged, Grade]):
    """A score from 0 to 10 for every different answer of a seed.

    As in OViP (arXiv 2505.15963) the judge does not see the image: it holds an answer against
    the reference, so that what the reference does not support counts against it. A prompt of one's
    own may show the image with {{image}}. A reply out of range is shown its error once; an
    answer without a score stays without, and is counted.
    """

    chat: ChatBackend
    """Who judges."""
    prompt: PromptField = field(default_factory=lambda: Prompt("judge"))
    """What it is told; with the placeholders prompt, reference, answer, perhaps image."""
    sampling: Sampling = field(default_factory=lambda: Sampling(temperature=0.1, max_tokens=256))
    """How its reply is drawn."""

    def __post_init__(self) -> None:
        """ValueError for a prompt that does not fit."""
        self.prompt.require({"prompt", "reference", "answer"}, {"image"})

    def ask_all(self, record: Sampled) -> Sequence[Request[Grade]]:
        """A score for each answer, beside the reference."""
        seed = record.seed
        return [
            self.request(
                self.prompt.messages(
                    {
                        "prompt": seed.prompt,
                        "reference": seed.chosen,
                        "answer": answer.text,
                        "image": seed.image,
                    }
                ),
                Grade,
                seed,
                "judge",
                i,
            )
            for i, answer in enumerate(record.answers)
        ]

    def conclude_all(
        self, record: Sampled, replies: Sequence[Reply[Grade] | Unanswered]
    ) -> Sequence[Judged] | Drop:
        """The answers with their scores; the first failure's drop where none got a score."""
        failed = [reply for reply in replies if isinstance(reply, Unanswered)]
        if len(failed) == len(replies):
            return failed[0].drop(f"judging all {len(replies)} answers failed, the first")
        scores = tuple(r.value.score if isinstance(r, Reply) else None for r in replies)
        return [Judged(record, scores)]
