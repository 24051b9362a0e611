"""Qwen-Image (arXiv 2508.02324): images from words. Knows texts and arrays, not records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from stages.backends.diffusion.pipeline import open_pipeline, padded, plain
from stages.backends.diffusion.settings import (
    rows_a_call,
)
from stages.base import Device
from stages.edit.canvas import Size
from stages.pixels import Pixels

if TYPE_CHECKING:
    from stages.backends.diffusion.qwen_image import QwenImageSettings

_MOST_TOKENS = 1024
"""What the pipeline cuts a description at, its own frame of five tokens included."""


class QwenImageModel:
    """Qwen-Image: weights under Apache-2.0."""

    def __init__(self, settings: QwenImageSettings, device: Device) -> None:
        """Load the pipeline; CheckpointError or ValueError in one line."""
        self.settings = settings

        self._pipeline = open_pipeline(
            "QwenImagePipeline",
            settings.checkpoints()[0],
            device,
            few_steps=settings.few_steps,
            weights=settings.weights,
            step_cache=settings.step_cache,
        )

    def close(self) -> None:
        """Free the device."""
        self._pipeline.close()

    def count_tokens(self, descriptions: Sequence[str]) -> list[int]:
        """Lengths of descriptions, to be held against `max_tokens`."""
        ids = self._pipeline.pipe.tokenizer([plain(text) for text in descriptions]).input_ids
        return [len(one) for one in ids]

    def synthesize(
        self, descriptions: Sequence[str], seeds: Sequence[int], size: Size
    ) -> list[Pixels]:
        """One image for each description and its seed; sides are multiples of 16."""
        most = rows_a_call(self.settings.rows, self.settings.step_cache)
        made: list[Pixels] = []
        for start in range(0, len(descriptions), most):
            texts = [plain(text) for text in descriptions[start : start + most]]
            embeds, mask = padded([self._embedding(text) for text in texts])
            words = {"prompt_embeds": embeds, "prompt_embeds_mask": mask}
            if self.settings.true_cfg_scale > 1:
                unwanted = padded([self._embedding(self.settings.negative_prompt)] * len(texts))
                words["negative_prompt_embeds"], words["negative_prompt_embeds_mask"] = unwanted
            made += self._pipeline.images(
                seeds[start : start + most],
                width=size.width,
                height=size.height,
                num_inference_steps=self.settings.steps,
                true_cfg_scale=self.settings.true_cfg_scale,
                max_sequence_length=_MOST_TOKENS,
                **words,
            )
        return made

    def _embedding(self, text: str) -> torch.Tensor:
        """[1, L, D]."""
        embedding: torch.Tensor
        embedding, _ = self._pipeline.read(text, prompt=[text], max_sequence_length=_MOST_TOKENS)
        return embedding
