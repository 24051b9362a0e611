"""Describes the image in which the worse of two answers would be true (OViP's description)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from annotated_types import Ge
from pydantic import Field

from schemas.ids import content_id
from schemas.records import Contrast, Drop, Kind, Reason
from schemas.texts import AnswerPair, Described
from stages.language.chat import ChatBackend, Form, Reply, Request, Sampling, Words
from stages.language.prompting import Prompt, PromptField
from stages.language.stage import ChatStage


class Caption(Form):
    """What the model fills in."""

    difference: Words = Field(description="in a few words, what the image must show")
    description: Words = Field(description="the caption to paint from")


@dataclass(frozen=True)
class Describer(ChatStage[AnswerPair, Described, Caption]):
    """A caption of an image that depicts `rejected` and contradicts `chosen`.

    The roles stand in the prompt by name, `depict` and `contradict`: in OViP's released code they
    depend on the order of arguments, and are swapped on the way.
    """

    task: ClassVar[str] = "describing the image"

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

    def ask(self, record: AnswerPair) -> Request[Caption]:
        """A caption of the image in which the worse answer is true."""
        seed = record.seed
        messages = self.prompt.messages(
            {"prompt": seed.prompt, "depict": record.rejected, "contradict": record.chosen}
        )
        # One seed may have several pairs; the answers tell them apart.
        name = f"describer {content_id(record.chosen, record.rejected)}"
        return self.request(messages, Caption, seed, name)

    def conclude(self, record: AnswerPair, reply: Reply[Caption]) -> Sequence[Described] | Drop:
        """The described pair; TEXT_TOO_LONG for a caption above `max_chars`."""
        description = " ".join(reply.value.description.split())
        if len(description) > self.max_chars:
            detail = f"the description has {len(description)} characters, most {self.max_chars}"
            return Drop(Reason.TEXT_TOO_LONG, detail, reply.raw)
        contrast = Contrast(Kind.SCENE, "image", reply.value.difference, description)
        return [Described(record, description, contrast)]
