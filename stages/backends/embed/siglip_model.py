"""SigLIP (arXiv 2303.15343) and SigLIP 2 (arXiv 2502.14786) as embedders: see the whole scene.

The image tower alone is loaded; the vector is what its attention pooling head gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import (
    Siglip2ImageProcessorPil,
    Siglip2VisionModel,
    SiglipImageProcessorPil,
    SiglipVisionModel,
)

from stages.backends.weights.checkpoints import CheckpointError
from stages.backends.weights.pretrained import load_model, load_processor
from stages.backends.weights.torch_device import TorchModel
from stages.backends.weights.torch_images import Images, Patches, chunks, unit_rows
from stages.base import Device
from stages.pixels import Pixels

if TYPE_CHECKING:
    from stages.backends.embed.siglip import SiglipSettings


class SiglipModel(TorchModel):
    """One vector an image."""

    def __init__(self, settings: SiglipSettings, device: Device) -> None:
        """Load the image tower; CheckpointError if it has no pooling head."""
        super().__init__(device)
        self.settings = settings

        (checkpoint,) = settings.checkpoints()
        classes = {
            "siglip": SiglipVisionModel,
            "siglip_vision_model": SiglipVisionModel,
            "siglip2": Siglip2VisionModel,
            "siglip2_vision_model": Siglip2VisionModel,
        }
        self._model, folder = load_model(classes, checkpoint, (self.where, self.dtype))
        if not self._model.use_head:
            raise CheckpointError(
                f"{checkpoint} has no pooling head, so it gives no vector for an image; take a "
                "checkpoint such as google/siglip-so400m-patch14-384"
            )
        self._inputs: Images | Patches
        if isinstance(self._model, Siglip2VisionModel):
            processor = load_processor(Siglip2ImageProcessorPil, folder, checkpoint)
            self._inputs = Patches(processor, self.where, self.dtype)
        else:
            processor = load_processor(SiglipImageProcessorPil, folder, checkpoint)
            self._inputs = Images(processor, self.where, self.dtype)

    def embed(self, images: Sequence[Pixels]) -> NDArray[np.float32]:
        """[N, D] unit rows, normalised in float32, of N uint8 [H, W, 3] RGB images."""
        rows = []
        with torch.inference_mode():
            for part in chunks(len(images), self.settings.max_batch):
                inputs = self._inputs.batch(images[part])
                rows.append(unit_rows(self._model(**inputs).pooler_output))
        return np.concatenate(rows)
