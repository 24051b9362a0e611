"""Scores sampled answers against the reference with a language model (OViP's critic)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from pydantic import Field

from schemas.ids import row_seed
from schemas.records import Drop
from schemas.texts import Judged, Sampled, SampledAnswer
from stages.base import Backend, Stage
from stages.language.chat import ChatBackend, Form, Reply, Request, Sampling, Unanswered
from stages.language.prompting import Prompt, PromptField, Values


class Grade(Form):
    """What the judge fills in."""

    reason: str = Field(description="what is right and what is wrong, in one sentence")
    score: int = Field(ge=0, le=10, description="0 (wrong) to 10 (right)")


@dataclass(frozen=True)
class Judge(Stage[Sampled, Judged]):
    """A score from 0 to 10 for every different answer of a seed.

    As in OViP (arXiv 2505.15963) the judge does not see the image: it holds an answer against
    the reference, so that what the reference does not support counts against it. A prompt of one's
    own may show the image with {{image}}. A reply out of range is shown its error once; an
    answer without a score stays without, and is counted.
    """

    consumes: ClassVar[type] = Sampled
    produces: ClassVar[type] = Judged

    chat: ChatBackend
    """Who judges."""
    prompt: PromptField = field(default_factory=lambda: Prompt("judge"))
    """What it is told; with the placeholders prompt, reference, answer, perhaps image."""
    sampling: Sampling = field(default_factory=lambda: Sampling(temperature=0.1, max_tokens=256))
    """How its reply is drawn."""

    def __post_init__(self) -> None:
        """ValueError for a prompt that does not fit."""
        self.prompt.require({"prompt", "reference", "answer"}, {"image"})

    def backends(self) -> Sequence[Backend]:
        """The model."""
        return (self.chat,)

    def process(self, batch: Sequence[Sampled]) -> Sequence[Sequence[Judged] | Drop]:
        """The answers with their scores; the first failure's drop where no answer got one."""
        requests = [
            self._request(record, answer, i)
            for record in batch
            for i, answer in enumerate(record.answers)
        ]
        results = iter(self.chat.chat(requests))
        outcomes: list[Sequence[Judged] | Drop] = []
        for record in batch:
            own = [next(results) for _ in record.answers]
            scores = tuple(r.value.score if isinstance(r, Reply) else None for r in own)
            failed = [result for result in own if isinstance(result, Unanswered)]
            if len(failed) == len(own):
                outcomes.append(failed[0].drop(f"judging all {len(own)} answers failed, the first"))
            else:
                outcomes.append([Judged(record, scores)])
        return outcomes

    def _request(self, record: Sampled, answer: SampledAnswer, index: int) -> Request[Grade]:
        seed = record.seed
        values: Values = {
            "prompt": seed.prompt,
            "reference": seed.chosen,
            "answer": answer.text,
            "image": seed.image,
        }
        number = row_seed(seed.run_seed, seed.seed_id, "judge", index)
        return Request(self.prompt.messages(values), Grade, self.sampling, number)
