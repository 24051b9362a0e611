"""Samples answers from the model that is to be trained: what it gets wrong, it must learn."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated

from annotated_types import Ge

from schemas.records import Drop, Reason, Seed
from schemas.texts import Sampled, SampledAnswer
from stages.language.chat import ChatBackend, Message, Reply, Request, Sampling, Unanswered
from stages.language.stage import ManyRequestsStage


@dataclass(frozen=True)
class Sampler(ManyRequestsStage[Seed, Sampled, str]):
    """Puts the image and the prompt to the model several times, each time with another seed.

    OViP (arXiv 2505.15963) draws 16 samples at temperature 1.2 and top-p 0.8, of at most 256
    tokens, and takes equal ones once; here they are counted. The prompt is the row's own, word for
    word: to the model that is to be trained it is the instruction.
    """

    chat: ChatBackend
    """The model that is to be trained."""
    samples: Annotated[int, Ge(1)] = 16
    """Samples for each seed."""
    sampling: Sampling = field(
        default_factory=lambda: Sampling(temperature=1.2, top_p=0.8, max_tokens=256)
    )
    """How each is drawn."""

    def __post_init__(self) -> None:
        """ValueError for samples that would all be the same."""
        if self.samples > 1 and self.sampling.temperature == 0:
            raise ValueError(
                f"{self.samples} samples at temperature 0 are all the same; set a temperature "
                "above 0, or samples to 1"
            )

    def ask_all(self, record: Seed) -> Sequence[Request[str]]:
        """The row's own prompt, once for each sample."""
        messages = (Message("user", (record.image, record.prompt)),)
        return [
            self.request(messages, str, record, "sampler", sample) for sample in range(self.samples)
        ]

    def conclude_all(
        self, record: Seed, replies: Sequence[Reply[str] | Unanswered]
    ) -> Sequence[Sampled] | Drop:
        """The different answers; a drop where no sample gave one."""
        # A Counter keeps the order in which its keys first came.
        counts = Counter(r.value for r in replies if isinstance(r, Reply) and r.value)
        if counts:
            answers = tuple(SampledAnswer(text, times) for text, times in counts.items())
            return [Sampled(record, answers, self.samples)]
        failed = [reply for reply in replies if isinstance(reply, Unanswered)]
        if failed:
            return failed[0].drop(f"all {self.samples} samples failed, the first")
        return Drop(Reason.BAD_REPLY, f"all {self.samples} samples are empty")
