"""FLUX.1 Kontext (arXiv 2506.15742): images edited by instruction. Knows arrays, not records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import PIL.Image
from annotated_types import Ge, Gt, Le

from stages.backends.diffusion.flux import count_flux_tokens, flux_words
from stages.backends.diffusion.settings import FewSteps, Rows, Weights, checkpoints_of
from stages.backends.weights.checkpoints import Checkpoint
from stages.base import OPERATIONAL, Device
from stages.edit.canvas import Size, elongation, size_of
from stages.pixels import Pixels


@dataclass
class FluxKontext:
    """Edits of images of one size go through the model together."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    name: Literal["flux_kontext"] = "flux_kontext"
    """Which backend this is."""
    model: str = "black-forest-labs/FLUX.1-Kontext-dev"
    """Hub id (gated, non-commercial) or folder of a `FluxKontextPipeline`."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    steps: Annotated[int, Ge(1), Le(200)] = 28
    """Denoising steps."""
    guidance: Annotated[float, Gt(0), Le(20)] = 2.5
    """Weight of the instruction, which this model was distilled to take."""
    few_steps: FewSteps | None = None
    """A few-step LoRA; then `steps` is its number of steps."""
    weights: Weights = "full"
    """Form of the transformer's weights."""
    max_tokens: Annotated[int, Ge(1), Le(512)] = 512
    """Longest instruction, in tokens of the T5 encoder, its end included. CLIP, which only sets a
    mood, reads the first 77."""
    rows: Rows = field(default=4, metadata=OPERATIONAL)
    """Images denoised in one call: speed and memory alone."""
    _pipeline: Any = field(default=None, init=False, repr=False, compare=False)

    def checkpoints(self) -> Sequence[Checkpoint]:
        """The pipeline, and the LoRA if there is one."""
        return checkpoints_of(self.model, self.revision, self.few_steps)

    def open(self, device: Device) -> None:
        """Load the pipeline; CheckpointError or ValueError in one line."""
        from stages.backends.diffusion.pipeline import open_pipeline

        self._pipeline = open_pipeline(
            "FluxKontextPipeline",
            self.checkpoints()[0],
            device,
            few_steps=self.few_steps,
            weights=self.weights,
        )

    def close(self) -> None:
        """Free the device."""
        if self._pipeline is not None:
            self._pipeline.close()
            self._pipeline = None

    def sizes(self, max_elongation: float) -> list[Size]:
        """The sizes, about a megapixel, that the model was trained at; others it resamples."""
        from diffusers.pipelines.flux import pipeline_flux_kontext as kontext

        trained = (Size(*size) for size in kontext.PREFERRED_KONTEXT_RESOLUTIONS)
        return sorted(size for size in trained if elongation(size) <= max_elongation)

    def count_tokens(self, instructions: Sequence[str]) -> list[int]:
        """Lengths of instructions, to be held against `max_tokens`."""
        return count_flux_tokens(self._pipeline, instructions)

    def edit(
        self,
        images: Sequence[Pixels],
        instructions: Sequence[str],
        seeds: Sequence[Sequence[int]],
    ) -> list[list[Pixels]]:
        """For each image one edit a seed; images must be of one of `sizes`."""
        from stages.backends.diffusion.pipeline import edited_by_size

        known = set(self.sizes(float("inf")))
        for image in images:
            if size_of(image) not in known:
                raise ValueError(
                    f"{self.name} would resample an image of {size_of(image)}; put it on a canvas "
                    "of one of its sizes first"
                )

        def together(mine: list[int], own_seeds: list[int]) -> list[Pixels]:
            size = size_of(images[mine[0]])
            texts = [instructions[i] for i in mine]
            made: list[Pixels] = self._pipeline.images(
                own_seeds,
                image=[PIL.Image.fromarray(images[i]) for i in mine],
                width=size.width,
                height=size.height,
                max_area=size.width * size.height,
                num_inference_steps=self.steps,
                guidance_scale=self.guidance,
                **flux_words(self._pipeline, texts, self.max_tokens),
            )
            return made

        return edited_by_size(images, seeds, self.rows, together)
