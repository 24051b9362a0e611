"""SAM by Meta's own package, for its .pth checkpoints: one image at a time, in float32."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray

from schemas.geometry import Box
from stages.backends.weights.checkpoints import (
    UNREADABLE,
    Checkpoint,
    CheckpointError,
    first_line,
    locate,
)
from stages.base import OPERATIONAL, Device
from stages.pixels import Pixels

_SOURCE = "github.com/facebookresearch/segment-anything, section Model Checkpoints"


@dataclass
class SegmentAnything:
    """segment-anything 1.0. Its successor here is the backend `sam`."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    name: Literal["segment_anything"] = "segment_anything"
    """Selects this backend."""
    model: str = "sam_vit_h_4b8939.pth"
    """The checkpoint's file, as Meta publishes it."""
    architecture: Literal["vit_h", "vit_l", "vit_b"] = "vit_h"
    """Which of the package's networks the file is for."""
    max_boxes: Annotated[int, Ge(1)] = field(default=64, metadata=OPERATIONAL)
    """Boxes in one pass of the mask decoder."""
    _predictor: Any = field(default=None, init=False, repr=False, compare=False)
    _device: Any = field(default=None, init=False, repr=False, compare=False)

    def checkpoints(self) -> Sequence[Checkpoint]:
        """The one file."""
        return (Checkpoint(self.model, source=_SOURCE),)

    def open(self, device: Device) -> None:
        """Load the file; CheckpointError in one line if it is for another network."""
        from stages.backends.weights.torch_device import place

        try:
            import segment_anything
        except ImportError as error:
            raise CheckpointError(
                f"the backend segment_anything cannot be imported ({error}); pip install "
                "'nearmiss[segment-anything]', or take the backend sam"
            ) from None
        self._device, _ = place(device)
        path = locate(self.checkpoints()[0])
        build = segment_anything.sam_model_registry[self.architecture]
        try:
            network = build(checkpoint=str(path))
        except UNREADABLE as error:
            raise CheckpointError(
                f"{path} holds no SAM {self.architecture} as segment-anything saves it: "
                f"{first_line(error)}"
            ) from error
        self._predictor = segment_anything.SamPredictor(network.to(self._device))

    def close(self) -> None:
        """Free the device."""
        if self._predictor is not None:
            from stages.backends.weights.torch_device import free

            self._predictor = None
            free(self._device)

    def segment(
        self, images: Sequence[Pixels], boxes: Sequence[Sequence[Box]]
    ) -> list[list[NDArray[np.bool_]]]:
        """A bool [H, W] mask per box of each image; a box is clipped to its image first."""
        import torch

        with torch.inference_mode():
            return [self._masks(image, own) for image, own in zip(images, boxes, strict=True)]

    def _masks(self, image: Pixels, boxes: Sequence[Box]) -> list[NDArray[np.bool_]]:
        import torch

        from stages.backends.weights.torch_images import chunks

        if not boxes:
            return []
        height, width = image.shape[:2]
        self._predictor.set_image(np.ascontiguousarray(image))
        corners = torch.tensor([box.clipped(width, height) for box in boxes], device=self._device)
        scaled = self._predictor.transform.apply_boxes_torch(corners, (height, width))
        masks: list[NDArray[np.bool_]] = []
        for part in chunks(len(boxes), self.max_boxes):
            found, _, _ = self._predictor.predict_torch(
                None, None, boxes=scaled[part], multimask_output=False
            )
            masks += list(found[:, 0].cpu().numpy())
        self._predictor.reset_image()
        return masks
