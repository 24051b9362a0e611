"""SAM by Meta's own package: one image at a time, in float32. Needs segment-anything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import segment_anything
import torch
from numpy.typing import NDArray

from schemas.geometry import Box
from stages.backends.weights.checkpoints import UNREADABLE, CheckpointError, first_line, locate
from stages.backends.weights.torch_device import TorchModel
from stages.backends.weights.torch_images import chunks
from stages.base import Device
from stages.pixels import Pixels

if TYPE_CHECKING:
    from stages.backends.original.segment_anything import SegmentAnythingSettings


class SegmentAnythingModel(TorchModel):
    """segment-anything 1.0."""

    def __init__(self, settings: SegmentAnythingSettings, device: Device) -> None:
        """Load the file; CheckpointError in one line if it is for another network."""
        super().__init__(device)
        self.settings = settings
        path = locate(settings.checkpoints()[0])
        build = segment_anything.sam_model_registry[settings.architecture]
        try:
            network = build(checkpoint=str(path))
        except UNREADABLE as error:
            raise CheckpointError(
                f"{path} holds no SAM {settings.architecture} as segment-anything saves it: "
                f"{first_line(error)}"
            ) from error
        self._predictor = segment_anything.SamPredictor(network.to(self.where))

    def segment(
        self, images: Sequence[Pixels], boxes: Sequence[Sequence[Box]]
    ) -> list[list[NDArray[np.bool_]]]:
        """A bool [H, W] mask per box of each image; a box is clipped to its image first."""
        with torch.inference_mode():
            return [self._masks(image, own) for image, own in zip(images, boxes, strict=True)]

    def _masks(self, image: Pixels, boxes: Sequence[Box]) -> list[NDArray[np.bool_]]:
        if not boxes:
            return []
        height, width = image.shape[:2]
        self._predictor.set_image(np.ascontiguousarray(image))
        corners = torch.tensor([box.clipped(width, height) for box in boxes], device=self.where)
        scaled = self._predictor.transform.apply_boxes_torch(corners, (height, width))
        masks: list[NDArray[np.bool_]] = []
        for part in chunks(len(boxes), self.settings.max_boxes):
            found, _, _ = self._predictor.predict_torch(
                None, None, boxes=scaled[part], multimask_output=False
            )
            masks += list(found[:, 0].cpu().numpy())
        self._predictor.reset_image()
        return masks
