"""A chat model answers the question of a pair for each of its images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from schemas.records import Drop, Reason, ScoredCandidate
from stages.language.chat import ChatBackend, Reply, Request, Sampling, Unanswered
from stages.language.prompting import Prompt, PromptField
from stages.language.stage import ManyRequestsStage
from stages.wording import difference


@dataclass(frozen=True)
class Answerer(ManyRequestsStage[ScoredCandidate, ScoredCandidate, str]):
    """Writes the answers of pairs whose images were found rather than made (SymMPO's pairs).

    (arXiv 2506.11712.) Both images get their answer from the same model under the same prompt, so
    that the two differ in what is seen and not in who speaks.
    """

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

    def ask_all(self, record: ScoredCandidate) -> Sequence[Request[str]]:
        """The question about each image that has no answer yet."""
        candidate = record.candidate
        images = {"chosen": candidate.chosen_image, "counterfactual": candidate.rejected_image}
        if self.keep_chosen:
            del images["chosen"]
        return [
            self.request(
                self.prompt.messages({"image": image, "prompt": candidate.texts.prompt}),
                str,
                candidate.seed,
                f"answerer:{side}",
            )
            for side, image in images.items()
        ]

    def conclude_all(
        self, record: ScoredCandidate, replies: Sequence[Reply[str] | Unanswered]
    ) -> Sequence[ScoredCandidate] | Drop:
        """The candidate with its answers; NO_TEXT_DIFFERENCE where both images get the same."""
        answers: list[str] = []
        for reply in replies:
            if isinstance(reply, Unanswered):
                return reply.drop("answering for the image")
            if not reply.value:
                return Drop(Reason.BAD_REPLY, "an empty answer", reply.raw)
            answers.append(reply.value)
        candidate = record.candidate
        chosen = candidate.texts.chosen if self.keep_chosen else answers[0]
        counterfactual = answers[-1]
        if difference(chosen, counterfactual) is None:
            return Drop(Reason.NO_TEXT_DIFFERENCE, "both images got the same answer")
        answered = replace(
            candidate,
            written=replace(candidate.texts, chosen=chosen),
            counterfactual=counterfactual,
            contrast=replace(candidate.contrast, target=chosen, replacement=counterfactual),
        )
        return [replace(record, candidate=answered)]
