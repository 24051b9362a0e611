"""DINOv2 (arXiv 2304.07193) as an embedder: sees local detail and forgives little."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray

from stages.backends.weights.pretrained import load_model, load_processor
from stages.backends.weights.torch_device import TorchModel
from stages.backends.weights.torch_images import Images, chunks, unit_rows
from stages.base import Device
from stages.pixels import Pixels

if TYPE_CHECKING:
    from stages.backends.embed.dinov2 import Dinov2Settings


class Dinov2Model(TorchModel):
    """One vector an image, from DINOv2 with or without register tokens."""

    def __init__(self, settings: Dinov2Settings, device: Device) -> None:
        """Load the model."""
        super().__init__(device)
        self.settings = settings

        (checkpoint,) = settings.checkpoints()
        classes = {
            "dinov2": transformers.Dinov2Model,
            "dinov2_with_registers": transformers.Dinov2WithRegistersModel,
        }
        self._model, folder = load_model(classes, checkpoint, (self.where, self.dtype))
        processor = load_processor(transformers.BitImageProcessorPil, folder, checkpoint)
        self._images = Images(processor, self.where, self.dtype, whole=settings.view == "whole")

    def embed(self, images: Sequence[Pixels]) -> NDArray[np.float32]:
        """[N, D] unit rows, normalised in float32, of N uint8 [H, W, 3] RGB images."""
        rows = []
        with torch.inference_mode():
            for part in chunks(len(images), self.settings.max_batch):
                tokens = self._model(self._images.stacked(images[part])).last_hidden_state
                rows.append(unit_rows(self._pooled(tokens)))
        return np.concatenate(rows)

    def _pooled(self, tokens: Any) -> Any:
        """[N, D] of [N, 1 + registers + patches, D]."""
        if self.settings.pooling == "cls":
            return tokens[:, 0]
        registers = getattr(self._model.config, "num_register_tokens", 0)
        return tokens[:, 1 + registers :].float().mean(dim=1)
