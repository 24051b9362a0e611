"""FLUX.1 Kontext (arXiv 2506.15742): images edited by instruction. Knows arrays, not records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import PIL.Image
from diffusers.pipelines.flux import pipeline_flux_kontext as kontext

from stages.backends.diffusion.flux_model import count_flux_tokens, flux_words
from stages.backends.diffusion.pipeline import edited_by_size, open_pipeline
from stages.base import Device
from stages.edit.canvas import Size, elongation, size_of
from stages.pixels import Pixels

if TYPE_CHECKING:
    from stages.backends.diffusion.flux_kontext import FluxKontextSettings


class FluxKontextModel:
    """Edits of images of one size go through the model together."""

    def __init__(self, settings: FluxKontextSettings, device: Device) -> None:
        """Load the pipeline; CheckpointError or ValueError in one line."""
        self.settings = settings

        self._pipeline = open_pipeline(
            "FluxKontextPipeline",
            settings.checkpoints()[0],
            device,
            few_steps=settings.few_steps,
            weights=settings.weights,
        )

    def close(self) -> None:
        """Free the device."""
        self._pipeline.close()

    def sizes(self, max_elongation: float) -> list[Size]:
        """The sizes, about a megapixel, that the model was trained at; others it resamples."""
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
        known = set(self.sizes(float("inf")))
        for image in images:
            if size_of(image) not in known:
                raise ValueError(
                    f"{self.settings.name} would resample an image of {size_of(image)}; put it on "
                    "a canvas of one of its sizes first"
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
                num_inference_steps=self.settings.steps,
                guidance_scale=self.settings.guidance,
                **flux_words(self._pipeline, texts, self.settings.max_tokens),
            )
            return made

        return edited_by_size(images, seeds, self.settings.rows, together)
