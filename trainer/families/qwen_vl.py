"""Qwen2.5-VL and Qwen3-VL: an image is as many patches as its size asks for, and has no tiles."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from trainer.families.family import Evaluators, Family
from trainer.families.inputs import ImageFeatures, ImageTensors, PromptTokens, joined

if TYPE_CHECKING:
    from transformers import BatchFeature, PreTrainedModel


class Qwen25VL(Family):
    """Positions count in time, height and width; the projector is the last layer of the tower."""

    name = "Qwen2.5-VL"
    model_types = ("qwen2_5_vl",)
    several_images = True
    evaluators = Evaluators("qwen2_5_vl", "Qwen2VLChat")
    vision_tower = "visual"
    projector = r"visual\.(.*\.)?\w*merger\w*"

    def image_tensors(self, made: BatchFeature, number: int) -> ImageTensors:
        """Patches, and how many there are in time, height and width."""
        grids = made["image_grid_thw"]
        counts = grids.prod(1).tolist()
        return {
            "pixel_values": torch.split(made["pixel_values"], counts)[number],
            "image_grid_thw": grids[number : number + 1],
        }

    def num_patches(self, image: ImageTensors) -> int:
        """One row of `pixel_values` is a patch."""
        return len(image["pixel_values"])

    @classmethod
    def positions(
        cls, model: PreTrainedModel, prompt: PromptTokens, images: Sequence[ImageTensors]
    ) -> Tensor:
        """As the model's own `get_rope_index` counts them."""
        kinds = torch.from_numpy((prompt.image >= 0).astype("int64"))[None]
        grids = torch.cat([image["image_grid_thw"] for image in images]).cpu() if images else None
        positions, _ = model.get_rope_index(
            input_ids=torch.from_numpy(prompt.ids)[None],
            mm_token_type_ids=kinds,
            image_grid_thw=grids,
            attention_mask=torch.ones_like(kinds),
        )
        return torch.as_tensor(positions[:, 0])


class Qwen3VL(Qwen25VL):
    """Features of early tower layers are added to the language model's first states (deepstack)."""

    name = "Qwen3-VL"
    model_types = ("qwen3_vl",)
    evaluators = Evaluators("qwen3_vl", "Qwen3VLChat")

    @classmethod
    def encode(cls, model: PreTrainedModel, images: Sequence[ImageTensors]) -> list[ImageFeatures]:
        """With the features of the deepstack layers."""
        output = model.get_image_features(**joined(images), return_dict=True)
        layers = zip(*output.deepstack_features, strict=True)
        return [
            ImageFeatures(tokens, tuple(deep))
            for tokens, deep in zip(output.pooler_output, layers, strict=True)
        ]

    @classmethod
    def encoder_outputs(cls, images: Sequence[ImageFeatures]) -> dict[str, object]:
        """Deepstack features come by layer, then by image."""
        found = SimpleNamespace(
            pooler_output=tuple(image.tokens for image in images),
            deepstack_features=list(zip(*(image.deep for image in images), strict=True)),
        )
        return {"image": found}
