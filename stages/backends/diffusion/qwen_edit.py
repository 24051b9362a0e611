"""Qwen-Image-Edit (arXiv 2508.02324): images edited by instruction. Knows arrays, not records."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import PIL.Image
from annotated_types import Ge, Gt, Le

from schemas.ids import content_id
from stages.backends.diffusion.settings import (
    FewSteps,
    Rows,
    StepCache,
    Weights,
    checkpoints_of,
    require_one_pass,
    rows_a_call,
)
from stages.backends.weights.checkpoints import Checkpoint
from stages.base import OPERATIONAL, Device
from stages.edit.canvas import Size, fixed_points, size_of
from stages.pixels import Pixels

if TYPE_CHECKING:
    import torch

_MULTIPLE = 32
"""Of which the pipelines' own resize makes both sides."""


@dataclass
class _QwenEdit(ABC):
    """What both generations share."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}
    _kind: ClassVar[str]

    name: str = ""
    """Which backend this is."""
    model: str = ""
    """Hub id or folder."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    steps: Annotated[int, Ge(1), Le(200)] = 50
    """Denoising steps."""
    true_cfg_scale: Annotated[float, Ge(1), Le(20)] = 4.0
    """Weight of the instruction against `negative_prompt`; above 1 every step takes two passes."""
    negative_prompt: str = " "
    """What to keep away from; a blank, as the model was published, means nothing in particular."""
    guidance: Annotated[float, Gt(0), Le(20)] | None = None
    """For versions that are distilled to take it, and required by them."""
    few_steps: FewSteps | None = None
    """A few-step LoRA; then `steps` is its number of steps and `true_cfg_scale` must be 1."""
    weights: Weights = "full"
    """Form of the transformer's weights."""
    step_cache: StepCache | None = None
    """What steps may reuse of earlier ones."""
    max_tokens: Annotated[int, Ge(1), Le(1000)] = 512
    """Longest instruction, in tokens. Nothing is cut off."""
    rows: Rows = field(default=4, metadata=OPERATIONAL)
    """Images denoised in one call: speed and memory alone."""
    _pipeline: Any = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """ValueError for settings that contradict each other."""
        require_one_pass(self.few_steps, self.true_cfg_scale)

    def checkpoints(self) -> Sequence[Checkpoint]:
        """The pipeline, and the LoRA if there is one."""
        return checkpoints_of(self.model, self.revision, self.few_steps)

    def open(self, device: Device) -> None:
        """Load the pipeline; CheckpointError or ValueError in one line."""
        from stages.backends.diffusion.pipeline import open_pipeline

        self._pipeline = open_pipeline(
            self._kind,
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

    def sizes(self, max_elongation: float) -> list[Size]:
        """The sizes, about a megapixel, that the open pipeline does not resample."""
        return fixed_points(self._rule, _MULTIPLE, max_elongation)

    def count_tokens(self, instructions: Sequence[str]) -> list[int]:
        """Lengths of instructions, to be held against `max_tokens`."""
        from stages.backends.diffusion.pipeline import plain

        ids = self._pipeline.pipe.tokenizer([plain(text) for text in instructions]).input_ids
        return [len(one) for one in ids]

    @abstractmethod
    def _rule(self, aspect: float) -> tuple[int, int]:
        """(width, height) to which the pipeline brings an image of this aspect ratio."""

    @abstractmethod
    def _shown(self, picture: PIL.Image.Image) -> PIL.Image.Image:
        """The image as the text encoder is shown it."""

    def _images(self, images: Sequence[Pixels]) -> list[PIL.Image.Image]:
        for image in images:
            size = size_of(image)
            if tuple(self._rule(size.aspect)) != size:
                raise ValueError(
                    f"{self.name} would resample an image of {size}; put it on a canvas of one of "
                    "its sizes first"
                )
        return [PIL.Image.fromarray(image) for image in images]

    def _embedding(self, image: Pixels, picture: PIL.Image.Image, text: str) -> torch.Tensor:
        """[1, L, D]: the instruction and the image, read once and kept for further seeds."""
        key = (content_id(image.tobytes()), text)
        embedding: torch.Tensor
        embedding, _ = self._pipeline.read(key, prompt=[text], image=[self._shown(picture)])
        return embedding

    def _words(
        self, images: Sequence[Pixels], pictures: Sequence[PIL.Image.Image], texts: Sequence[str]
    ) -> dict[str, Any]:
        """The pipeline's settings on what to make, one row for each image and its text."""
        from stages.backends.diffusion.pipeline import padded, plain

        wanted = [
            self._embedding(*row) for row in zip(images, pictures, map(plain, texts), strict=True)
        ]
        settings: dict[str, Any] = {"true_cfg_scale": self.true_cfg_scale}
        settings["prompt_embeds"], settings["prompt_embeds_mask"] = padded(wanted)
        if self.true_cfg_scale > 1:
            unwanted = [
                self._embedding(image, picture, self.negative_prompt)
                for image, picture in zip(images, pictures, strict=True)
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
            "num_inference_steps": self.steps,
            "guidance_scale": self.guidance,
        }


@dataclass
class QwenImageEdit(_QwenEdit):
    """The first generation. Edits of images of one size go through the model together."""

    _kind: ClassVar[str] = "QwenImageEditPipeline"

    name: Literal["qwen_image_edit"] = "qwen_image_edit"
    """Which backend this is."""
    model: str = "Qwen/Qwen-Image-Edit"
    """Hub id or folder of a `QwenImageEditPipeline`."""

    def edit(
        self,
        images: Sequence[Pixels],
        instructions: Sequence[str],
        seeds: Sequence[Sequence[int]],
    ) -> list[list[Pixels]]:
        """For each image one edit a seed; images must be of one of `sizes`."""
        from stages.backends.diffusion.pipeline import edited_by_size

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

        most = rows_a_call(self.rows, self.step_cache)
        return edited_by_size(images, seeds, most, together)

    def _rule(self, aspect: float) -> tuple[int, int]:
        from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit

        width, height, _ = pipeline_qwenimage_edit.calculate_dimensions(1024 * 1024, aspect)
        return width, height

    def _shown(self, picture: PIL.Image.Image) -> PIL.Image.Image:
        return picture


@dataclass
class QwenImageEditPlus(_QwenEdit):
    """The second generation (2509, 2511). Takes one edit a call, with all its seeds together."""

    _kind: ClassVar[str] = "QwenImageEditPlusPipeline"

    name: Literal["qwen_image_edit_plus"] = "qwen_image_edit_plus"
    """Which backend this is."""
    model: str = "Qwen/Qwen-Image-Edit-2511"
    """Hub id or folder of a `QwenImageEditPlusPipeline`."""
    steps: Annotated[int, Ge(1), Le(200)] = 40
    """Denoising steps."""

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
        self, image: Pixels, picture: PIL.Image.Image, instruction: str, seeds: Sequence[int]
    ) -> list[Pixels]:
        words = self._words([image], [picture], [instruction])
        most = rows_a_call(self.rows, self.step_cache)
        made: list[Pixels] = []
        for start in range(0, len(seeds), most):
            own = seeds[start : start + most]
            made += self._pipeline.images(
                own,
                image=[picture],
                num_images_per_prompt=len(own),
                **words,
                **self._how(size_of(image)),
            )
        return made

    def _rule(self, aspect: float) -> tuple[int, int]:
        from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as plus

        width, height = plus.calculate_dimensions(plus.VAE_IMAGE_SIZE, aspect)
        return width, height

    def _shown(self, picture: PIL.Image.Image) -> PIL.Image.Image:
        from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as plus

        aspect = picture.width / picture.height
        width, height = plus.calculate_dimensions(plus.CONDITION_IMAGE_SIZE, aspect)
        resized: PIL.Image.Image = self._pipeline.pipe.image_processor.resize(
            picture, height, width
        )
        return resized


QWEN_EDITORS = (QwenImageEditPlus, QwenImageEdit)
"""What a recipe can choose from, the default first."""
