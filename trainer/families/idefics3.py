"""Idefics3 and SmolVLM: tiles with tokens that name their row and column, and the whole image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch

from trainer.families.family import Evaluators, Family
from trainer.families.inputs import ImageFeatures, ImageTensors, joined

if TYPE_CHECKING:
    from transformers import BatchFeature, PreTrainedModel


class Idefics3(Family):
    """An image is 1 to some 16 tiles and the whole image once more.

    SmolVLM-Instruct is of this class of transformers; SmolVLM2 (`smolvlm`) is not.
    """

    name = "Idefics3"
    model_types = ("idefics3",)
    several_images = True
    evaluators = Evaluators("huggingface", "SmolVLM")
    # With them the image processor says how many rows and columns there are.
    image_settings: ClassVar = {"return_row_col_info": True}
    language_model = "text_model"
    vision_tower = "vision_model"
    projector = "connector"

    def image_tensors(self, made: BatchFeature, number: int) -> ImageTensors:
        """Tiles, and which of their pixels are not padding; there is one image a call."""
        assert number == 0
        names = ("pixel_values", "pixel_attention_mask")
        return {name: made[name][0] for name in names if name in made}

    @classmethod
    def encode(cls, model: PreTrainedModel, images: Sequence[ImageTensors]) -> list[ImageFeatures]:
        """All tiles as one row of them, for which the model gives one tensor."""
        inputs = {name: x[None] for name, x in joined(images).items()}
        (features,) = model.get_image_features(**inputs, return_dict=True).pooler_output
        tiles = [len(image["pixel_values"]) for image in images]
        each = len(features) // sum(tiles)
        return [ImageFeatures(x) for x in torch.split(features, [n * each for n in tiles])]
