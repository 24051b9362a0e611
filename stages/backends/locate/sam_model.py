"""Masks from boxes by SAM and SAM 2.1 of transformers. Knows pixels and boxes, not records.

Every image goes once through the image encoder, in batches. The boxes of these images go
through the small mask decoder as one flat list, each beside the features of its image; so it does
not matter that images have different numbers of boxes, and nothing is padded.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad
from transformers.models.sam2.modeling_sam2 import Sam2VisionEncoderOutput

from schemas.geometry import Box
from stages.backends.weights.pretrained import load_model, load_processor
from stages.backends.weights.torch_device import TorchModel
from stages.backends.weights.torch_images import Images, chunks
from stages.base import Device
from stages.pixels import Pixels

if TYPE_CHECKING:
    from stages.backends.locate.sam import Sam2Settings, SamSettings

BoolMask = NDArray[np.bool_]
Size = tuple[int, int]
"""Rows and columns."""
Network: TypeAlias = transformers.SamModel | transformers.Sam2Model


class _BoxPrompted(TorchModel, ABC):
    """What the generations share: how images and boxes are batched."""

    def __init__(
        self,
        settings: SamSettings | Sam2Settings,
        device: Device,
        classes: Mapping[str, type[Network]],
        processor_class: type[transformers.BaseImageProcessor],
    ) -> None:
        """Load the model: the image encoder in the device's type, the mask decoder in float32.

        bfloat16 would round the corners of a box to multiples of 4 pixels of 1024.
        """
        super().__init__(device)
        self.settings = settings
        (checkpoint,) = settings.checkpoints()
        self._model, folder = load_model(classes, checkpoint, (self.where, torch.float32))
        self._model.vision_encoder.to(self.dtype)
        processor = load_processor(processor_class, folder, checkpoint)
        self._images = Images(processor, self.where, self.dtype)

    def segment(
        self, images: Sequence[Pixels], boxes: Sequence[Sequence[Box]]
    ) -> list[list[BoolMask]]:
        """A bool [H, W] mask per box of each image: the one that the model gives for a box.

        A box is clipped to its image first.
        """
        masks: list[list[BoolMask]] = []
        with torch.inference_mode():
            for part in chunks(len(images), self.settings.max_batch):
                masks += self._segment(images[part], boxes[part])
        return masks

    def _segment(
        self, images: Sequence[Pixels], boxes: Sequence[Sequence[Box]]
    ) -> list[list[BoolMask]]:
        """The masks of one batch of images."""
        planes = [self._images.resized(image) for image in images]
        features = self._encoded(planes)
        owners = [k for k, own in enumerate(boxes) for _ in own]
        corners = [
            _scaled(box, images[k].shape, _size(planes[k]))
            for k, own in enumerate(boxes)
            for box in own
        ]
        masks: list[list[BoolMask]] = [[] for _ in images]
        for part in chunks(len(owners), self.settings.max_boxes):
            rows = torch.tensor(owners[part], device=self.where)
            out = self._model(
                image_embeddings=self._given([feature[rows] for feature in features]),
                # [boxes, 1, 4]: one "image" for each box.
                input_boxes=torch.tensor(corners[part], device=self.where)[:, None],
                multimask_output=False,
            )
            for k, logits in zip(owners[part], out.pred_masks[:, 0], strict=True):
                height, width = images[k].shape[:2]
                full = self._full_size(logits[None], _size(planes[k]), (height, width))
                masks[k].append((full[0, 0] > 0).cpu().numpy())
        return masks

    @abstractmethod
    def _encoded(self, planes: Sequence[Tensor]) -> list[Tensor]:
        """float32 features of images as `Images.resized` gives them, each [N, C, h, w]."""

    @abstractmethod
    def _given(self, features: list[Tensor]) -> Tensor | list[Tensor]:
        """Features in the form in which the model takes them back."""

    @abstractmethod
    def _full_size(self, logits: Tensor, resized: Size, size: Size) -> Tensor:
        """[1, 1, *size] logits of [1, 1, h, w] ones."""


class SamModel(_BoxPrompted):
    """The first generation: an image keeps its shape and is padded to a square."""

    def __init__(self, settings: SamSettings, device: Device) -> None:
        classes = {"sam": transformers.SamModel}
        super().__init__(settings, device, classes, transformers.SamImageProcessorPil)

    def _encoded(self, planes: Sequence[Tensor]) -> list[Tensor]:
        side = self._model.config.vision_config.image_size
        # The padding is zero after normalising, as the model was trained.
        values = [self._images.normalized(one) for one in planes]
        padded = [pad(v, (0, side - v.shape[2], 0, side - v.shape[1])) for v in values]
        return [self._model.get_image_embeddings(torch.stack(padded)).float()]

    def _given(self, features: list[Tensor]) -> Tensor:
        return features[0]

    def _full_size(self, logits: Tensor, resized: Size, size: Size) -> Tensor:
        side = self._model.config.vision_config.image_size
        square = interpolate(logits, (side, side), mode="bilinear", align_corners=False)
        part = square[..., : resized[0], : resized[1]]
        return interpolate(part, size, mode="bilinear", align_corners=False)


class Sam2Model(_BoxPrompted):
    """The second generation: an image is squeezed to a square.

    The checkpoints of the hub are those of the video model, whose memory is left out.
    """

    def __init__(self, settings: Sam2Settings, device: Device) -> None:
        classes = {"sam2": transformers.Sam2Model, "sam2_video": transformers.Sam2Model}
        super().__init__(settings, device, classes, transformers.ViTImageProcessorPil)
        # The decoder's projections of the fine scales come next, inside the same method.
        self._model.vision_encoder.register_forward_hook(_in_float32)

    def _encoded(self, planes: Sequence[Tensor]) -> list[Tensor]:
        values = self._images.normalized(torch.stack(list(planes)))
        features: list[Tensor] = self._model.get_image_embeddings(values)
        return features

    def _given(self, features: list[Tensor]) -> list[Tensor]:
        return features

    def _full_size(self, logits: Tensor, resized: Size, size: Size) -> Tensor:  # noqa: ARG002
        return interpolate(logits, size, mode="bilinear", align_corners=False)


def _in_float32(
    _module: nn.Module, _inputs: object, output: Sam2VisionEncoderOutput
) -> Sam2VisionEncoderOutput:
    output.fpn_hidden_states = [feature.float() for feature in output.fpn_hidden_states]
    return output


def _size(planes: Tensor) -> Size:
    return planes.shape[1], planes.shape[2]


def _scaled(box: Box, shape: tuple[int, ...], resized: Size) -> list[float]:
    """A box in pixels of the image, in pixels of the resized image."""
    height, width = shape[:2]
    return [*box.clipped(width, height).scaled(resized[1] / width, resized[0] / height)]
