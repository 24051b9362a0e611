"""LLaVA-NeXT: an image is a thumbnail and up to four tiles of a grid that fits its shape."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainer.families.family import Evaluators, Family
from trainer.families.llava import GREEDY

if TYPE_CHECKING:
    from transformers import BatchFeature

    from trainer.families.inputs import ImageTensors


class LlavaNext(Family):
    """Features of tiles are put together as an image again, with a learned end of line."""

    name = "LLaVA-NeXT"
    model_types = ("llava_next",)
    several_images = False
    evaluators = Evaluators("llava_hf", "LLaVA_Next", GREEDY)
    projector = r"multi_modal_projector|image_newline"

    def image_tensors(self, made: BatchFeature, number: int) -> ImageTensors:
        """Tiles, and the size by which the model cuts away what only fills the grid."""
        return {
            "pixel_values": made["pixel_values"][number],
            "image_sizes": made["image_sizes"][number : number + 1],
        }
