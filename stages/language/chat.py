"""What a chat model is to the stages: messages with images in, a checked object out.

A stage writes `Request`s and says what it wants back; a backend gives one result per request, in
order. A request that gets no answer has an `Unanswered`, of which the stage makes a drop; a model
that cannot be reached at all raises.

Text that comes from the data is quoted as data by `stages/language/prompting.py`, never pasted into
instructions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Generic, Literal, Protocol, TypeVar, runtime_checkable

from annotated_types import Ge, Gt, Le
from pydantic import AfterValidator, BaseModel, ConfigDict

from schemas.records import Drop, Image, Reason
from stages.base import BackendSettings, Model


class Form(BaseModel):
    """Base of what a model is asked to fill in. Its JSON schema is what the model is held to.

    No field has a default, because strict endpoints ask for every key; one may be `str | None`.
    Fields come in their order: reasons before the verdict that they lead to.
    """

    model_config = ConfigDict(frozen=True, json_schema_extra={"additionalProperties": False})


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("must not be empty")
    return text.strip()


Words = Annotated[str, AfterValidator(_not_blank)]
"""A form's text that must say something."""

Answer = TypeVar("Answer", bound=Form | str)


@dataclass(frozen=True, slots=True)
class Message:
    """One turn."""

    role: Literal["system", "user", "assistant"]
    """Who speaks."""
    parts: tuple[str | Image, ...]
    """Texts and images, in order; an image is a compressed file, as records hold it."""


@dataclass(frozen=True)
class Sampling:
    """How a reply is drawn."""

    temperature: Annotated[float, Ge(0)] = 0.0
    """0 takes the likeliest word each time."""
    top_p: Annotated[float, Gt(0), Le(1)] = 1.0
    """Smallest share of probability that the words drawn from must hold together."""
    max_tokens: Annotated[int, Ge(1)] = 512
    """Longest reply; a reply that is cut off does not count."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}


@dataclass(frozen=True, slots=True)
class Request(Generic[Answer]):
    """What a stage asks of a model. A result depends on nothing else."""

    messages: tuple[Message, ...]
    """The conversation; the last turn is the user's."""
    answer: type[Answer]
    """What must come back: a form, or `str` for free text."""
    sampling: Sampling
    """How the reply is drawn."""
    seed: int
    """Random seed of the reply: `schemas.ids.row_seed` of the row, the stage and the attempt."""


@dataclass(frozen=True, slots=True)
class Reply(Generic[Answer]):
    """An answer that was asked for."""

    value: Answer
    """The checked object, or the text without white space at its ends (perhaps empty)."""
    raw: str
    """What the model wrote, word for word."""


@dataclass(frozen=True, slots=True)
class Unanswered:
    """No answer to this one request."""

    reason: Reason
    """MODEL_REFUSED, BAD_REPLY (not in the form asked for, even after it was shown its error; or
    cut off) or REQUEST_FAILED (the endpoint would not take it, or failed on it alone)."""
    why: str
    """One line for a person."""
    raw: str = ""
    """What the model wrote, word for word; empty where it wrote nothing."""

    def drop(self, task: str = "") -> Drop:
        """The drop of the row; `task` says what was asked: "planning the edit"."""
        return Drop(self.reason, f"{task}: {self.why}" if task else self.why, self.raw)


@runtime_checkable
class ChatModel(Model, Protocol):
    """A language model that sees images."""

    def chat(self, requests: Sequence[Request[Answer]]) -> list[Reply[Answer] | Unanswered]:
        """One result per request, in order; requests of a batch do not know of each other.

        Raises ServiceDown if the model cannot be reached, so that no row is to blame.
        """


@runtime_checkable
class ChatBackend(BackendSettings[ChatModel], Protocol):
    """Its settings."""

    @property
    def model(self) -> str:
        """Its id, as a verdict names its judge."""
