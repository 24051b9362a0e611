"""SigLIP (arXiv 2303.15343) and SigLIP 2 (arXiv 2502.14786) as embedders: see the whole scene.

The image tower alone is loaded; the vector is what its attention pooling head gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray

from stages.backends.weights.checkpoints import Checkpoint, CheckpointError
from stages.base import OPERATIONAL, Device
from stages.pixels import Pixels


@dataclass
class Siglip:
    """One vector an image.

    SigLIP, and SigLIP 2 of a fixed size (which has the same type), squeeze the image to a square.
    SigLIP 2 NaFlex keeps its shape: as many patches as fit into the checkpoint's number.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    name: Literal["siglip"] = "siglip"
    """Selects this backend."""
    model: str = "google/siglip-so400m-patch14-384"
    """Hub id or folder of a `siglip` or `siglip2` checkpoint, whole or its image tower."""
    revision: str | None = None
    """Revision on the hub."""
    max_batch: Annotated[int, Ge(1)] = field(default=32, metadata=OPERATIONAL)
    """Images in one pass."""
    _model: Any = field(default=None, init=False, repr=False, compare=False)
    _inputs: Any = field(default=None, init=False, repr=False, compare=False)

    def checkpoints(self) -> Sequence[Checkpoint]:
        """The one model."""
        return (Checkpoint(self.model, self.revision),)

    def open(self, device: Device) -> None:
        """Load the image tower; CheckpointError if it has no pooling head."""
        from transformers import (
            Siglip2ImageProcessorPil,
            Siglip2VisionModel,
            SiglipImageProcessorPil,
            SiglipVisionModel,
        )

        from stages.backends.weights.pretrained import load_model, load_processor
        from stages.backends.weights.torch_device import place
        from stages.backends.weights.torch_images import Images, Patches

        where, dtype = place(device)
        (checkpoint,) = self.checkpoints()
        classes = {
            "siglip": SiglipVisionModel,
            "siglip_vision_model": SiglipVisionModel,
            "siglip2": Siglip2VisionModel,
            "siglip2_vision_model": Siglip2VisionModel,
        }
        self._model, folder = load_model(classes, checkpoint, (where, dtype))
        if not self._model.use_head:
            raise CheckpointError(
                f"{checkpoint} has no pooling head, so it gives no vector for an image; take a "
                "checkpoint such as google/siglip-so400m-patch14-384"
            )
        if isinstance(self._model, Siglip2VisionModel):
            processor = load_processor(Siglip2ImageProcessorPil, folder, checkpoint)
            self._inputs = Patches(processor, where, dtype)
        else:
            processor = load_processor(SiglipImageProcessorPil, folder, checkpoint)
            self._inputs = Images(processor, where, dtype)

    def close(self) -> None:
        """Free the device."""
        if self._model is not None:
            from stages.backends.weights.torch_device import free

            where = self._model.device
            self._model = self._inputs = None
            free(where)

    def embed(self, images: Sequence[Pixels]) -> NDArray[np.float32]:
        """[N, D] unit rows, normalised in float32, of N uint8 [H, W, 3] RGB images."""
        import torch

        from stages.backends.weights.torch_images import chunks, unit_rows

        rows = []
        with torch.inference_mode():
            for part in chunks(len(images), self.max_batch):
                inputs = self._inputs.batch(images[part])
                rows.append(unit_rows(self._model(**inputs).pooler_output))
        return np.concatenate(rows)
