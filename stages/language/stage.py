"""The base of stages that talk to a chat model: one call of the model for a whole micro-batch.

A stage says what it asks about a record and what it concludes from the reply. This module does the
rest, and knows neither prompts nor what a good reply is.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Generic

from schemas.ids import row_seed
from schemas.records import Drop, Seed
from stages.base import In, Out, Stage
from stages.language.chat import (
    Answer,
    ChatBackend,
    ChatModel,
    Message,
    Reply,
    Request,
    Sampling,
    Unanswered,
)


def replies_to(
    model: ChatModel, asked: Sequence[Sequence[Request[Answer]]]
) -> list[list[Reply[Answer] | Unanswered]]:
    """What a model replies to the requests of each record, in order; one call for all of them."""
    results = iter(model.chat([request for requests in asked for request in requests]))
    return [[next(results) for _ in requests] for requests in asked]


class ManyRequestsStage(Stage[In, Out], Generic[In, Out, Answer]):
    """Asks several things about each record: votes, samples, a score for each answer."""

    chat: ChatBackend
    """The model that is asked."""
    sampling: Sampling
    """How its replies are drawn."""

    @abstractmethod
    def ask_all(self, record: In) -> Sequence[Request[Answer]] | Drop:
        """All that is asked about a record, or why nothing can be asked."""

    @abstractmethod
    def conclude_all(
        self, record: In, replies: Sequence[Reply[Answer] | Unanswered]
    ) -> Sequence[Out] | Drop:
        """What follows from the replies; they come in the order of the requests."""

    def request(
        self,
        messages: tuple[Message, ...],
        answer: type[Answer],
        seed: Seed,
        name: str,
        number: int = 0,
    ) -> Request[Answer]:
        """A request about a row, with a random seed of its own.

        `name` is the stage's, with what tells apart several records of one row; `number` counts the
        requests that would otherwise get the same seed.
        """
        drawn = row_seed(seed.run_seed, seed.seed_id, name, number)
        return Request(messages, answer, self.sampling, drawn)

    def process(self, batch: Sequence[In]) -> Sequence[Sequence[Out] | Drop]:
        """What each record leads to, or the drop that says why nothing was asked about it."""
        asked = [self.ask_all(record) for record in batch]
        answered = iter(
            replies_to(self.loaded(self.chat), [own for own in asked if not isinstance(own, Drop)])
        )
        return [
            own if isinstance(own, Drop) else self.conclude_all(record, next(answered))
            for record, own in zip(batch, asked, strict=True)
        ]


class ChatStage(ManyRequestsStage[In, Out, Answer]):
    """Asks one thing about each record; without an answer the record is dropped."""

    task: ClassVar[str]
    """What the model is asked to do, as the drop of an unanswered request says it."""

    @abstractmethod
    def ask(self, record: In) -> Request[Answer] | Drop:
        """What is asked about a record, or why nothing can be asked."""

    @abstractmethod
    def conclude(self, record: In, reply: Reply[Answer]) -> Sequence[Out] | Drop:
        """What follows from the reply."""

    def ask_all(self, record: In) -> Sequence[Request[Answer]] | Drop:
        """The one request."""
        asked = self.ask(record)
        return asked if isinstance(asked, Drop) else (asked,)

    def conclude_all(
        self, record: In, replies: Sequence[Reply[Answer] | Unanswered]
    ) -> Sequence[Out] | Drop:
        """What follows from the one reply; the model's own reason where it gave none."""
        (reply,) = replies
        if isinstance(reply, Unanswered):
            return reply.drop(self.task)
        return self.conclude(record, reply)
