"""Records between a seed and its candidate that hold what language models wrote.

Seed -planner-> PlannedEdit -editor-> Candidate
Seed -sampler-> Sampled -judge-> Judged -answer_pairs-> AnswerPair -describer-> Described
Described -synthesizer-> Candidate
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from schemas.records import Contrast, Region, Seed, Span, Texts


class Hallucination(StrEnum):
    """In what way a wrong answer is wrong; the three kinds of IC-VCO (arXiv 2605.31312)."""

    EXISTENCE = "existence"
    ATTRIBUTE = "attribute"
    RELATION = "relation"


@dataclass(frozen=True, slots=True)
class PlannedEdit:
    """A seed and the one edit that would make its wrong answer right. Written by a planner."""

    seed: Seed
    """The seed; it has a `rejected` answer."""
    hallucination: Hallucination
    """In what way `seed.rejected` is wrong."""
    hallucinated: tuple[Span, ...]
    """Where `seed.rejected` is wrong; at least one, each of at least one character."""
    contrast: Contrast
    """The edit; `contrast.instruction` is what the editor is told."""
    counterfactual: str
    """`seed.chosen`, rewritten to be true of the edited image."""
    regions: tuple[Region, ...]
    """The annotated region of the target, in pixels of `seed.image`; () where it is not known."""

    @property
    def params(self) -> dict[str, str]:
        """The entries that a candidate made from this gets in its `params`."""
        spans = ",".join(f"{start}-{end}" for start, end in self.hallucinated)
        return {"hallucination": str(self.hallucination), "hallucinated": spans}


@dataclass(frozen=True, slots=True)
class SampledAnswer:
    """One of the answers that a model gave to a seed's prompt."""

    text: str
    """As the model wrote it, without white space at its ends; not empty."""
    times: int
    """How many of the samples were this text; at least 1."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """A seed and the answers of the model to be trained (OViP, arXiv 2505.15963)."""

    seed: Seed
    """The seed; `seed.chosen` is the reference answer."""
    answers: tuple[SampledAnswer, ...]
    """The different answers, in the order in which they first came; at least one."""
    num_samples: int
    """Samples asked for; more than the sum of `times` if some were unusable."""


@dataclass(frozen=True, slots=True)
class Judged:
    """Sampled answers with a judge's scores."""

    sampled: Sampled
    """The answers."""
    scores: tuple[int | None, ...]
    """One for each of `sampled.answers`: 0 (wrong) to 10 (right), None where the judge failed."""

    @property
    def seed(self) -> Seed:
        """The seed."""
        return self.sampled.seed


@dataclass(frozen=True, slots=True)
class AnswerPair:
    """A better and a worse answer of one seed. `answer_pairs` makes several of one `Judged`."""

    judged: Judged
    """Where the answers come from."""
    chosen: str
    """The better answer: a sampled one, or the reference."""
    chosen_score: int | None
    """Its score, 0 to 10; None for the reference, which nobody judged."""
    rejected: str
    """The worse answer, a sampled one."""
    rejected_score: int
    """Its score, 0 to 10."""

    @property
    def seed(self) -> Seed:
        """The seed, with its own answers."""
        return self.judged.seed

    @property
    def texts(self) -> Texts:
        """The seed's prompt with this pair's answers."""
        return Texts(self.seed.prompt, self.chosen, self.rejected)


@dataclass(frozen=True, slots=True)
class Described:
    """A pair of answers and the image in which the worse one would be true, in words."""

    pair: AnswerPair
    """The answers."""
    description: str
    """The image to paint, as a caption: `pair.rejected` is true of it, `pair.chosen` is not."""
    contrast: Contrast
    """How that image differs from the original; its kind is SCENE."""

    @property
    def seed(self) -> Seed:
        """As `AnswerPair.seed`."""
        return self.pair.seed

    @property
    def texts(self) -> Texts:
        """As `AnswerPair.texts`."""
        return self.pair.texts

    @property
    def counterfactual(self) -> str:
        """The answer that is true of the painted image: `pair.rejected`."""
        return self.pair.rejected

    @property
    def params(self) -> dict[str, str]:
        """What a candidate made from this keeps of it in its own `params`."""
        sampled, score = self.pair.judged.sampled, self.pair.chosen_score
        return {
            "chosen_score": "reference" if score is None else str(score),
            "rejected_score": str(self.pair.rejected_score),
            "reference": sampled.seed.chosen,
            "samples": str(sampled.num_samples),
            "different_answers": str(len(sampled.answers)),
        }
