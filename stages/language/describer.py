"""Describes the image in which the worse of two answers would be true (OViP's description)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from annotated_types import Ge
from pydantic import Field

from schemas.ids import content_id, row_seed
from schemas.records import Contrast, Drop, Kind, Reason
from schemas.texts import AnswerPair, Described
from stages.base import Backend, Stage
from stages.language.chat import ChatBackend, Form, Reply, Request, Sampling, Words
from stages.language.prompting import Prompt, PromptField


class Caption(Form):
    """What the model fills in."""

    difference: Words = Field(description="in a few words, what the image must show")
    description: Words = Field(description="the caption to paint from")


@dataclass(frozen=True)
class Describer(Stage[AnswerPair, Described]):
    """A caption of an image that depicts `rejected` and contradicts `chosen`.

    The roles stand in the prompt by name, `depict` and `contradict`: in OViP's released code they
    depend on the order of arguments, and are swapped on the way.
    """

    consumes: ClassVar[type] = AnswerPair
    produces: ClassVar[type] = Described

    chat: ChatBackend
    """Who writes."""
    prompt: PromptField = field(default_factory=lambda: Prompt("describe"))
    """What it is told; with the placeholders prompt, depict, contradict."""
    sampling: Sampling = field(default_factory=lambda: Sampling(temperature=0.1, max_tokens=256))
    """How its reply is drawn."""
    max_chars: Annotated[int, Ge(1)] = 800
    """Characters of the longest caption; image models cut off what is longer, and say nothing."""

    def __post_init__(self) -> None:
        """ValueError for a prompt that does not fit."""
        self.prompt.require({"prompt", "depict", "contradict"})

    def backends(self) -> Sequence[Backend]:
        """The model."""
        return (self.chat,)

    def process(self, batch: Sequence[AnswerPair]) -> Sequence[Sequence[Described] | Drop]:
        """The described pairs, or why there is no description."""
        outcomes: list[Sequence[Described] | Drop] = []
        results = self.chat.chat([self._request(pair) for pair in batch])
        for pair, result in zip(batch, results, strict=True):
            if not isinstance(result, Reply):
                outcomes.append(result.drop("describing the image"))
                continue
            description = " ".join(result.value.description.split())
            if len(description) > self.max_chars:
                detail = f"the description has {len(description)} characters, most {self.max_chars}"
                outcomes.append(Drop(Reason.TEXT_TOO_LONG, detail, result.raw))
                continue
            contrast = Contrast(Kind.SCENE, "image", result.value.difference, description)
            outcomes.append([Described(pair, description, contrast)])
        return outcomes

    def _request(self, pair: AnswerPair) -> Request[Caption]:
        seed = pair.seed
        values = {"prompt": seed.prompt, "depict": pair.rejected, "contradict": pair.chosen}
        # One seed may have several pairs; the answers tell them apart.
        which = f"describer {content_id(pair.chosen, pair.rejected)}"
        number = row_seed(seed.run_seed, seed.seed_id, which)
        return Request(self.prompt.messages(values), Caption, self.sampling, number)
