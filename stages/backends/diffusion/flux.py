"""FLUX.1: images from words. Knows texts and arrays, not records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le

from stages.backends.diffusion.settings import (
    FewSteps,
    Rows,
    StepCache,
    Weights,
    checkpoints_of,
    rows_a_call,
)
from stages.backends.weights.checkpoints import Checkpoint
from stages.base import OPERATIONAL, Device
from stages.edit.canvas import Size
from stages.pixels import Pixels

if TYPE_CHECKING:
    from stages.backends.diffusion.pipeline import Pipeline


@dataclass
class Flux:
    """FLUX.1-dev with OViP's settings (arXiv 2505.15963, `annotate.py`); schnell without guidance.

    OViP drew all its images from seed 0; here each row has its own.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    name: Literal["flux"] = "flux"
    """Which backend this is."""
    model: str = "black-forest-labs/FLUX.1-dev"
    """Hub id (gated, non-commercial) or folder of a `FluxPipeline`."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    steps: Annotated[int, Ge(1), Le(200)] = 40
    """Denoising steps."""
    guidance: Annotated[float, Gt(0), Le(50)] | None = 7.5
    """Weight of the words, for models distilled to take it, and required by them. The model's
    authors use 3.5."""
    few_steps: FewSteps | None = None
    """A few-step LoRA; then `steps` is its number of steps."""
    weights: Weights = "full"
    """Form of the transformer's weights."""
    step_cache: StepCache | None = None
    """What steps may reuse of earlier ones."""
    max_tokens: Annotated[int, Ge(1), Le(512)] = 512
    """Longest description, in tokens of the T5 encoder, its end included. CLIP, which only sets a
    mood, reads the first 77."""
    rows: Rows = field(default=8, metadata=OPERATIONAL)
    """Images denoised in one call: speed and memory alone."""
    _pipeline: Any = field(default=None, init=False, repr=False, compare=False)

    def checkpoints(self) -> Sequence[Checkpoint]:
        """The pipeline, and the LoRA if there is one."""
        return checkpoints_of(self.model, self.revision, self.few_steps)

    def open(self, device: Device) -> None:
        """Load the pipeline; CheckpointError or ValueError in one line."""
        from stages.backends.diffusion.pipeline import open_pipeline

        self._pipeline = open_pipeline(
            "FluxPipeline",
            self.checkpoints()[0],
            device,
            few_steps=self.few_steps,
            weights=self.weights,
            step_cache=self.step_cache,
        )
        self._pipeline.require_guidance(self.guidance)

    def close(self) -> None:
        """Free the device."""
        if self._pipeline is not None:
            self._pipeline.close()
            self._pipeline = None

    def count_tokens(self, descriptions: Sequence[str]) -> list[int]:
        """Lengths of descriptions, to be held against `max_tokens`."""
        return count_flux_tokens(self._pipeline, descriptions)

    def synthesize(
        self, descriptions: Sequence[str], seeds: Sequence[int], size: Size
    ) -> list[Pixels]:
        """One image for each description and its seed; sides are multiples of 16."""
        most = rows_a_call(self.rows, self.step_cache)
        made: list[Pixels] = []
        for start in range(0, len(descriptions), most):
            rows = slice(start, start + most)
            made += self._pipeline.images(
                seeds[rows],
                width=size.width,
                height=size.height,
                num_inference_steps=self.steps,
                guidance_scale=self.guidance,
                **flux_words(self._pipeline, descriptions[rows], self.max_tokens),
            )
        return made


def count_flux_tokens(pipeline: Pipeline, texts: Sequence[str]) -> list[int]:
    """Lengths in tokens of the T5 encoder, the end included."""
    return [len(one) for one in pipeline.pipe.tokenizer_2(list(texts)).input_ids]


def flux_words(pipeline: Pipeline, texts: Sequence[str], max_tokens: int) -> dict[str, Any]:
    """The pipeline's settings on what to make, one row a text; equal texts are read once."""
    import torch

    read = [
        pipeline.read(text, prompt=[text], prompt_2=None, max_sequence_length=max_tokens)
        for text in texts
    ]
    return {
        "prompt_embeds": torch.cat([words for words, _, _ in read]),
        "pooled_prompt_embeds": torch.cat([pooled for _, pooled, _ in read]),
    }
