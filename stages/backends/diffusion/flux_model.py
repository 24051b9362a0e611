"""FLUX.1: images from words. Knows texts and arrays, not records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from stages.backends.diffusion.pipeline import Pipeline, open_pipeline
from stages.backends.diffusion.settings import (
    rows_a_call,
)
from stages.base import Device
from stages.edit.canvas import Size
from stages.pixels import Pixels

if TYPE_CHECKING:
    from stages.backends.diffusion.flux import FluxSettings


class FluxModel:
    """FLUX.1, dev or schnell: as many images a call as the settings say."""

    def __init__(
        self, settings: FluxSettings, device: Device, pipeline: Pipeline | None = None
    ) -> None:
        """Load the pipeline unless one is given; CheckpointError or ValueError in one line."""
        self.settings = settings
        self._pipeline = pipeline or open_pipeline(
            "FluxPipeline",
            settings.checkpoints()[0],
            device,
            few_steps=settings.few_steps,
            weights=settings.weights,
            step_cache=settings.step_cache,
        )
        self._pipeline.require_guidance(settings.guidance)

    def close(self) -> None:
        """Free the device."""
        self._pipeline.close()

    def count_tokens(self, descriptions: Sequence[str]) -> list[int]:
        """Lengths of descriptions, to be held against `max_tokens`."""
        return count_flux_tokens(self._pipeline, descriptions)

    def synthesize(
        self, descriptions: Sequence[str], seeds: Sequence[int], size: Size
    ) -> list[Pixels]:
        """One image for each description and its seed; sides are multiples of 16."""
        most = rows_a_call(self.settings.rows, self.settings.step_cache)
        made: list[Pixels] = []
        for start in range(0, len(descriptions), most):
            rows = slice(start, start + most)
            made += self._pipeline.images(
                seeds[rows],
                width=size.width,
                height=size.height,
                num_inference_steps=self.settings.steps,
                guidance_scale=self.settings.guidance,
                **flux_words(self._pipeline, descriptions[rows], self.settings.max_tokens),
            )
        return made


def count_flux_tokens(pipeline: Pipeline, texts: Sequence[str]) -> list[int]:
    """Lengths in tokens of the T5 encoder, the end included."""
    return [len(one) for one in pipeline.pipe.tokenizer_2(list(texts)).input_ids]


def flux_words(pipeline: Pipeline, texts: Sequence[str], max_tokens: int) -> dict[str, Any]:
    """The pipeline's settings on what to make, one row a text; equal texts are read once."""
    read = [
        pipeline.read(text, prompt=[text], prompt_2=None, max_sequence_length=max_tokens)
        for text in texts
    ]
    return {
        "prompt_embeds": torch.cat([words for words, _, _ in read]),
        "pooled_prompt_embeds": torch.cat([pooled for _, pooled, _ in read]),
    }
