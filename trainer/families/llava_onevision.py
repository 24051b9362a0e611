"""LLaVA-OneVision: tiles for an image that is alone in its prompt, one square for several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from trainer.families.family import Evaluators
from trainer.families.inputs import ImageFeatures, ImageTensors, joined
from trainer.families.llava import GREEDY
from trainer.families.llava_next import LlavaNext

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class LlavaOnevision(LlavaNext):
    """Tiles as LLaVA-NeXT's."""

    name = "LLaVA-OneVision"
    model_types = ("llava_onevision",)
    several_images = True
    tiles_alone = True
    evaluators = Evaluators("llava_hf", "LLaVA_OneVision_HF", GREEDY)

    @classmethod
    def encode(cls, model: PreTrainedModel, images: Sequence[ImageTensors]) -> list[ImageFeatures]:
        """The model must be told which images are not cut into tiles."""
        inputs = joined(images)
        # What is alone has a thumbnail beside its tiles, so two of them or more.
        if len(images[0]["pixel_values"]) == 1:
            # A number above 1 says that the images share a prompt.
            inputs["batch_num_images"] = torch.tensor([max(2, len(images))])
        output = model.get_image_features(**inputs, return_dict=True)
        return [ImageFeatures(tokens) for tokens in output.pooler_output]
