"""DINOv2 (arXiv 2304.07193) as an embedder: sees local detail and forgives little."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray

from stages.backends.weights.checkpoints import Checkpoint
from stages.base import OPERATIONAL, Device
from stages.pixels import Pixels


@dataclass
class Dinov2:
    """One vector an image, from DINOv2 with or without register tokens."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    name: Literal["dinov2"] = "dinov2"
    """Selects this backend."""
    model: str = "facebook/dinov2-large"
    """Hub id or folder of a `dinov2` or `dinov2_with_registers` checkpoint."""
    revision: str | None = None
    """Revision on the hub."""
    pooling: Literal["cls", "mean"] = "cls"
    """The class token, or the mean of the patch tokens (register tokens left out); both after the
    last layer norm."""
    view: Literal["crop", "whole"] = "crop"
    """"crop" is the checkpoint's own: the shorter side to 256, then the middle 224 x 224, so what
    was edited near an edge is not seen. "whole" squeezes the whole image to 224 x 224."""
    max_batch: Annotated[int, Ge(1)] = field(default=32, metadata=OPERATIONAL)
    """Images in one pass."""
    _model: Any = field(default=None, init=False, repr=False, compare=False)
    _images: Any = field(default=None, init=False, repr=False, compare=False)

    def checkpoints(self) -> Sequence[Checkpoint]:
        """The one model."""
        return (Checkpoint(self.model, self.revision),)

    def open(self, device: Device) -> None:
        """Load the model."""
        from transformers import BitImageProcessorPil, Dinov2Model, Dinov2WithRegistersModel

        from stages.backends.weights.pretrained import load_model, load_processor
        from stages.backends.weights.torch_device import place
        from stages.backends.weights.torch_images import Images

        where, dtype = place(device)
        (checkpoint,) = self.checkpoints()
        classes = {"dinov2": Dinov2Model, "dinov2_with_registers": Dinov2WithRegistersModel}
        self._model, folder = load_model(classes, checkpoint, (where, dtype))
        processor = load_processor(BitImageProcessorPil, folder, checkpoint)
        self._images = Images(processor, where, dtype, whole=self.view == "whole")

    def close(self) -> None:
        """Free the device."""
        if self._model is not None:
            from stages.backends.weights.torch_device import free

            where = self._model.device
            self._model = self._images = None
            free(where)

    def embed(self, images: Sequence[Pixels]) -> NDArray[np.float32]:
        """[N, D] unit rows, normalised in float32, of N uint8 [H, W, 3] RGB images."""
        import torch

        from stages.backends.weights.torch_images import chunks, unit_rows

        rows = []
        with torch.inference_mode():
            for part in chunks(len(images), self.max_batch):
                tokens = self._model(self._images.stacked(images[part])).last_hidden_state
                rows.append(unit_rows(self._pooled(tokens)))
        return np.concatenate(rows)

    def _pooled(self, tokens: Any) -> Any:
        """[N, D] of [N, 1 + registers + patches, D]."""
        if self.pooling == "cls":
            return tokens[:, 0]
        registers = getattr(self._model.config, "num_register_tokens", 0)
        return tokens[:, 1 + registers :].float().mean(dim=1)
