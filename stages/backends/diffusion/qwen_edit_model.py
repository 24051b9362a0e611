"""Qwen-Image-Edit (arXiv 2508.02324): images edited by instruction. Knows arrays, not records."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import PIL.Image
import torch
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as plus

from schemas.ids import content_id
from stages.backends.diffusion.pipeline import (
    Pipeline,
    edited_by_size,
    open_pipeline,
    padded,
    plain,
)
from stages.backends.diffusion.settings import (
    rows_a_call,
)
from stages.base import Device
from stages.edit.canvas import Size, fixed_points, size_of
from stages.pixels import Pixels

if TYPE_CHECKING:
    from stages.backends.diffusion.qwen_edit import QwenImageEditPlusSettings, QwenImageEditSettings


_MULTIPLE = 32
"""Of which the pipelines' own resize makes both sides."""


class _QwenEditModel(ABC):
    """What both generations share."""

    kind: ClassVar[str]
    """The pipeline's class in diffusers."""

    def __init__(
        self,
        settings: QwenImageEditSettings | QwenImageEditPlusSettings,
        device: Device,
        pipeline: Pipeline | None = None,
    ) -> None:
        """Load the pipeline unless one is given; CheckpointError or ValueError in one line."""
        self.settings = settings
        self._pipeline = pipeline or open_pipeline(
            self.kind,
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

    def sizes(self, max_elongation: float) -> list[Size]:
        """The sizes, about a megapixel, that the open pipeline does not resample."""
        return fixed_points(self._rule, _MULTIPLE, max_elongation)

    def count_tokens(self, instructions: Sequence[str]) -> list[int]:
        """Lengths of instructions, to be held against `max_tokens`."""
        ids = self._pipeline.pipe.tokenizer([plain(text) for text in instructions]).input_ids
        return [len(one) for one in ids]

    @abstractmethod
    def _rule(self, aspect: float) -> tuple[int, int]:
        """(width, height) to which the pipeline brings an image of this aspect ratio."""

    @abstractmethod
    def _shown(self, pil_image: PIL.Image.Image) -> PIL.Image.Image:
        """The image as the text encoder is shown it."""

    def _images(self, images: Sequence[Pixels]) -> list[PIL.Image.Image]:
        for image in images:
            size = size_of(image)
            if tuple(self._rule(size.aspect)) != size:
                raise ValueError(
                    f"{self.settings.name} would resample an image of {size}; put it on a canvas "
                    "of one of its sizes first"
                )
        return [PIL.Image.fromarray(image) for image in images]

    def _embedding(self, image: Pixels, pil_image: PIL.Image.Image, text: str) -> torch.Tensor:
        """[1, L, D]: the instruction and the image, read once and kept for further seeds."""
        key = (content_id(image.tobytes()), text)
        embedding: torch.Tensor
        embedding, _ = self._pipeline.read(key, prompt=[text], image=[self._shown(pil_image)])
        return embedding

    def _words(
        self, images: Sequence[Pixels], pil_images: Sequence[PIL.Image.Image], texts: Sequence[str]
    ) -> dict[str, Any]:
        """The pipeline's settings on what to make, one row for each image and its text."""
        wanted = [
            self._embedding(*row) for row in zip(images, pil_images, map(plain, texts), strict=True)
        ]
        settings: dict[str, Any] = {"true_cfg_scale": self.settings.true_cfg_scale}
        settings["prompt_embeds"], settings["prompt_embeds_mask"] = padded(wanted)
        if self.settings.true_cfg_scale > 1:
            unwanted = [
                self._embedding(image, pil_image, self.settings.negative_prompt)
                for image, pil_image in zip(images, pil_images, strict=True)
            ]
            embeds, mask = padded(unwanted)
            settings["negative_prompt_embeds"] = embeds
            settings["negative_prompt_embeds_mask"] = mask
        return settings

    def _how(self, size: Size) -> dict[str, Any]:
        """The pipeline's settings on how to make it."""
        return {
            "width": size.width,
            "height": size.height,
            "num_inference_steps": self.settings.steps,
            "guidance_scale": self.settings.guidance,
        }


class QwenImageEditModel(_QwenEditModel):
    """The first generation. Edits of images of one size go through the model together."""

    kind: ClassVar[str] = "QwenImageEditPipeline"

    def edit(
        self,
        images: Sequence[Pixels],
        instructions: Sequence[str],
        seeds: Sequence[Sequence[int]],
    ) -> list[list[Pixels]]:
        """For each image one edit a seed; images must be of one of `sizes`."""
        opened = self._images(images)

        def together(mine: list[int], own_seeds: list[int]) -> list[Pixels]:
            same_size, shown = [images[i] for i in mine], [opened[i] for i in mine]
            made: list[Pixels] = self._pipeline.images(
                own_seeds,
                image=shown,
                **self._words(same_size, shown, [instructions[i] for i in mine]),
                **self._how(size_of(same_size[0])),
            )
            return made

        most = rows_a_call(self.settings.rows, self.settings.step_cache)
        return edited_by_size(images, seeds, most, together)

    def _rule(self, aspect: float) -> tuple[int, int]:
        width, height, _ = pipeline_qwenimage_edit.calculate_dimensions(1024 * 1024, aspect)
        return width, height

    def _shown(self, pil_image: PIL.Image.Image) -> PIL.Image.Image:
        return pil_image


class QwenImageEditPlusModel(_QwenEditModel):
    """The second generation (2509, 2511). Takes one edit a call, with all its seeds together."""

    kind: ClassVar[str] = "QwenImageEditPlusPipeline"

    def edit(
        self,
        images: Sequence[Pixels],
        instructions: Sequence[str],
        seeds: Sequence[Sequence[int]],
    ) -> list[list[Pixels]]:
        """For each image one edit a seed; images must be of one of `sizes`."""
        return [
            self._edit(*row)
            for row in zip(images, self._images(images), instructions, seeds, strict=True)
        ]

    def _edit(
        self, image: Pixels, pil_image: PIL.Image.Image, instruction: str, seeds: Sequence[int]
    ) -> list[Pixels]:
        words = self._words([image], [pil_image], [instruction])
        most = rows_a_call(self.settings.rows, self.settings.step_cache)
        made: list[Pixels] = []
        for start in range(0, len(seeds), most):
            own = seeds[start : start + most]
            made += self._pipeline.images(
                own,
                image=[pil_image],
                num_images_per_prompt=len(own),
                **words,
                **self._how(size_of(image)),
            )
        return made

    def _rule(self, aspect: float) -> tuple[int, int]:
        width, height = plus.calculate_dimensions(plus.VAE_IMAGE_SIZE, aspect)
        return width, height

    def _shown(self, pil_image: PIL.Image.Image) -> PIL.Image.Image:
        aspect = pil_image.width / pil_image.height
        width, height = plus.calculate_dimensions(plus.CONDITION_IMAGE_SIZE, aspect)
        resized: PIL.Image.Image = self._pipeline.pipe.image_processor.resize(
            pil_image, height, width
        )
        return resized
