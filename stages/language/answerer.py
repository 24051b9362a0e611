"""A chat model answers the question of a pair for each of its images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

from schemas.ids import row_seed
from schemas.records import Drop, Image, Reason, ScoredCandidate
from stages.base import Backend, Stage
from stages.language.chat import ChatBackend, Reply, Request, Sampling, Unanswered
from stages.language.prompting import Prompt, PromptField
from stages.wording import difference

NAME = "answerer"


@dataclass(frozen=True)
class Answerer(Stage[ScoredCandidate, ScoredCandidate]):
    """Writes the answers of pairs whose images were found rather than made (SymMPO's pairs).

    (arXiv 2506.11712.) Both images get their answer from the same model under the same prompt, so
    that the two differ in what is seen and not in who speaks.
    """

    consumes: ClassVar[type] = ScoredCandidate
    produces: ClassVar[type] = ScoredCandidate

    chat: ChatBackend
    """Who answers."""
    prompt: PromptField = field(default_factory=lambda: Prompt("answer"))
    """What it is told."""
    sampling: Sampling = field(default_factory=Sampling)
    """How an answer is drawn."""
    keep_chosen: bool = False
    """Keep the input's `chosen` for the original and ask for the other image's answer alone."""

    def __post_init__(self) -> None:
        """ValueError for a prompt with other placeholders."""
        self.prompt.require({"image", "prompt"})

    def backends(self) -> Sequence[Backend]:
        """The model."""
        return (self.chat,)

    def process(
        self, batch: Sequence[ScoredCandidate]
    ) -> Sequence[Sequence[ScoredCandidate] | Drop]:
        """The candidates with their answers; NO_TEXT_DIFFERENCE where both images get the same."""
        sides = ("counterfactual",) if self.keep_chosen else ("chosen", "counterfactual")
        requests = [self._request(record, side) for record in batch for side in sides]
        results = self.chat.chat(requests)
        per = len(sides)
        return [
            self._answered(record, results[i * per : (i + 1) * per])
            for i, record in enumerate(batch)
        ]

    def _request(self, record: ScoredCandidate, side: str) -> Request[str]:
        candidate = record.candidate
        seed = candidate.seed
        image: Image = candidate.chosen_image if side == "chosen" else candidate.rejected_image
        return Request(
            self.prompt.messages({"image": image, "prompt": seed.prompt}),
            str,
            self.sampling,
            row_seed(seed.run_seed, seed.seed_id, f"{NAME}:{side}"),
        )

    def _answered(
        self, record: ScoredCandidate, results: Sequence[Reply[str] | Unanswered]
    ) -> Sequence[ScoredCandidate] | Drop:
        answers: list[str] = []
        for result in results:
            if isinstance(result, Unanswered):
                return result.drop("answering for the image")
            if not result.value:
                return Drop(Reason.BAD_REPLY, "an empty answer", result.raw)
            answers.append(result.value)
        candidate = record.candidate
        chosen = candidate.seed.chosen if self.keep_chosen else answers[0]
        counterfactual = answers[-1]
        if difference(chosen, counterfactual) is None:
            return Drop(Reason.NO_TEXT_DIFFERENCE, "both images got the same answer")
        contrast = replace(candidate.contrast, target=chosen, replacement=counterfactual)
        return [
            replace(
                record,
                candidate=replace(
                    candidate,
                    seed=replace(candidate.seed, chosen=chosen),
                    counterfactual=counterfactual,
                    contrast=contrast,
                ),
            )
        ]
