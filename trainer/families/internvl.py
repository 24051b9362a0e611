"""InternVL 2.5, 3 and 3.5 in transformers' form: 1 to 12 tiles an image and a thumbnail."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, ClassVar

import torch

from trainer.families.family import Evaluators, Family
from trainer.families.inputs import ImageFeatures, ImageTensors

if TYPE_CHECKING:
    from transformers import BatchFeature, PreTrainedModel


class InternVL(Family):
    """A prompt has a start token, the placeholders of all tiles and an end token for an image."""

    name = "InternVL"
    model_types = ("internvl",)
    several_images = True
    # VLMEvalKit's InternVLChat loads the form with code of its own (`internvl_chat`) alone.
    evaluators = Evaluators("internvl_hf", None)
    image_settings: ClassVar = {"crop_to_patches": True}

    def image_tensors(self, made: BatchFeature, number: int) -> ImageTensors:
        """Tiles, the thumbnail last; an image of one tile has none."""
        return {
            "pixel_values": torch.split(made["pixel_values"], made["num_patches"].tolist())[number]
        }

    @classmethod
    def encode(cls, model: PreTrainedModel, images: Sequence[ImageTensors]) -> list[ImageFeatures]:
        """The model gives features by tile."""
        tiles = [image["pixel_values"] for image in images]
        output = model.get_image_features(pixel_values=torch.cat(tiles), return_dict=True)
        by_image = torch.split(output.pooler_output, [len(x) for x in tiles])
        return [ImageFeatures(features.flatten(0, 1)) for features in by_image]

    @classmethod
    def encoder_outputs(cls, images: Sequence[ImageFeatures]) -> dict[str, object]:
        """One tensor over all images, where others take a tuple."""
        return {"image": SimpleNamespace(pooler_output=torch.cat([x.tokens for x in images]))}
