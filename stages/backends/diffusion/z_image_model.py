"""Z-Image (arXiv 2511.22699): images from words. Knows texts and arrays, not records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from stages.backends.diffusion.pipeline import open_pipeline, plain
from stages.base import Device
from stages.edit.canvas import Size
from stages.pixels import Pixels

if TYPE_CHECKING:
    from stages.backends.diffusion.z_image import ZImageSettings


class ZImageModel:
    """Z-Image-Turbo: weights under Apache-2.0, distilled to a few steps without negative prompt."""

    def __init__(self, settings: ZImageSettings, device: Device) -> None:
        """Load the pipeline; CheckpointError or ValueError in one line."""
        self.settings = settings

        self._pipeline = open_pipeline(
            "ZImagePipeline", settings.checkpoints()[0], device, weights=settings.weights
        )

    def close(self) -> None:
        """Free the device."""
        self._pipeline.close()

    def count_tokens(self, descriptions: Sequence[str]) -> list[int]:
        """Lengths of descriptions, to be held against `max_tokens`."""
        framed = [
            self._pipeline.pipe.tokenizer.apply_chat_template(
                [{"role": "user", "content": plain(text)}],
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=True,
            )
            for text in descriptions
        ]
        return [len(one) for one in self._pipeline.pipe.tokenizer(framed).input_ids]

    def synthesize(
        self, descriptions: Sequence[str], seeds: Sequence[int], size: Size
    ) -> list[Pixels]:
        """One image for each description and its seed; sides are multiples of 16."""
        made: list[Pixels] = []
        for start in range(0, len(descriptions), self.settings.rows):
            texts = descriptions[start : start + self.settings.rows]
            words = {"prompt_embeds": [self._embedding(plain(text)) for text in texts]}
            if self.settings.guidance > 0:
                words["negative_prompt_embeds"] = [
                    self._embedding(self.settings.negative_prompt)
                ] * len(texts)
            made += self._pipeline.images(
                seeds[start : start + self.settings.rows],
                width=size.width,
                height=size.height,
                num_inference_steps=self.settings.steps,
                guidance_scale=self.settings.guidance,
                **words,
            )
        return made

    def _embedding(self, text: str) -> torch.Tensor:
        """[L, D], without padding."""
        (embedding,), _ = self._pipeline.read(
            text,
            prompt=[text],
            do_classifier_free_guidance=False,
            max_sequence_length=self.settings.max_tokens,
        )
        only: torch.Tensor = embedding
        return only
