"""Masks from boxes by SAM (arXiv 2304.02643) and SAM 2.1 (arXiv 2408.00714), by transformers.

Every image goes once through the image encoder, in batches. The boxes of these images go
through the small mask decoder as one flat list, each beside the features of its image; so it does
not matter that images have different numbers of boxes, and nothing is padded.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray

from schemas.geometry import Box
from stages.backends.weights.checkpoints import Checkpoint
from stages.base import OPERATIONAL, Device
from stages.pixels import Pixels

if TYPE_CHECKING:
    from torch import Tensor

BoolMask = NDArray[np.bool_]
Size = tuple[int, int]
"""Rows and columns."""


class _BoxPrompted(ABC):
    """What the generations share: how images and boxes are batched."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    model: str
    revision: str | None
    max_batch: int
    max_boxes: int
    _model: Any = None
    _images: Any = None

    def checkpoints(self) -> Sequence[Checkpoint]:
        """The one model."""
        return (Checkpoint(self.model, self.revision),)

    def _load(self, classes: Mapping[str, Any], processor_class: Any, device: Device) -> None:
        import torch

        from stages.backends.weights.pretrained import load_model, load_processor
        from stages.backends.weights.torch_device import place
        from stages.backends.weights.torch_images import Images

        where, dtype = place(device)
        (checkpoint,) = self.checkpoints()
        self._model, folder = load_model(classes, checkpoint, (where, torch.float32))
        self._model.vision_encoder.to(dtype)
        processor = load_processor(processor_class, folder, checkpoint)
        self._images = Images(processor, where, dtype)

    def close(self) -> None:
        """Free the device."""
        if self._model is not None:
            from stages.backends.weights.torch_device import free

            where = self._model.device
            self._model = self._images = None
            free(where)

    def segment(
        self, images: Sequence[Pixels], boxes: Sequence[Sequence[Box]]
    ) -> list[list[BoolMask]]:
        """A bool [H, W] mask per box of each image: the one that the model gives for a box.

        A box is clipped to its image first.
        """
        import torch

        from stages.backends.weights.torch_images import chunks

        masks: list[list[BoolMask]] = []
        with torch.inference_mode():
            for part in chunks(len(images), self.max_batch):
                masks += self._segment(images[part], boxes[part])
        return masks

    def _segment(
        self, images: Sequence[Pixels], boxes: Sequence[Sequence[Box]]
    ) -> list[list[BoolMask]]:
        """The masks of one batch of images."""
        import torch

        from stages.backends.weights.torch_images import chunks

        planes = [self._images.resized(image) for image in images]
        features = self._encoded(planes)
        owners = [k for k, own in enumerate(boxes) for _ in own]
        corners = [
            _scaled(box, images[k].shape, tuple(planes[k].shape[1:]))
            for k, own in enumerate(boxes)
            for box in own
        ]
        masks: list[list[BoolMask]] = [[] for _ in images]
        for part in chunks(len(owners), self.max_boxes):
            rows = torch.tensor(owners[part], device=self._model.device)
            out = self._model(
                image_embeddings=self._given([feature[rows] for feature in features]),
                # [boxes, 1, 4]: one "image" for each box.
                input_boxes=torch.tensor(corners[part], device=self._model.device)[:, None],
                multimask_output=False,
            )
            for k, logits in zip(owners[part], out.pred_masks[:, 0], strict=True):
                height, width = images[k].shape[:2]
                full = self._full_size(logits[None], tuple(planes[k].shape[1:]), (height, width))
                masks[k].append((full[0, 0] > 0).cpu().numpy())
        return masks

    @abstractmethod
    def _encoded(self, planes: Sequence[Tensor]) -> list[Tensor]:
        """float32 features of images as `Images.resized` gives them, each [N, C, h, w]."""

    @abstractmethod
    def _given(self, features: list[Tensor]) -> Any:
        """Features in the form in which the model takes them back."""

    @abstractmethod
    def _full_size(self, logits: Tensor, resized: Size, size: Size) -> Tensor:
        """[1, 1, *size] logits of [1, 1, h, w] ones."""


@dataclass
class Sam(_BoxPrompted):
    """The first generation: an image keeps its shape and is padded to a square."""

    name: Literal["sam"] = "sam"
    """Selects this backend."""
    model: str = "facebook/sam-vit-huge"
    """Hub id or folder of a `sam` checkpoint in the layout of transformers."""
    revision: str | None = None
    """Revision on the hub."""
    max_batch: Annotated[int, Ge(1)] = field(default=8, metadata=OPERATIONAL)
    """Images in one pass of the image encoder."""
    max_boxes: Annotated[int, Ge(1)] = field(default=64, metadata=OPERATIONAL)
    """Boxes in one pass of the mask decoder."""

    def open(self, device: Device) -> None:
        """Load the model: the image encoder in the device's type, the mask decoder in float32.

        bfloat16 would round the corners of a box to multiples of 4 pixels of 1024.
        """
        from transformers import SamImageProcessorPil, SamModel

        self._load({"sam": SamModel}, SamImageProcessorPil, device)

    def _encoded(self, planes: Sequence[Tensor]) -> list[Tensor]:
        import torch
        from torch.nn.functional import pad

        side = self._model.config.vision_config.image_size
        # The padding is zero after normalising, as the model was trained.
        values = [self._images.normalized(one) for one in planes]
        padded = [pad(v, (0, side - v.shape[2], 0, side - v.shape[1])) for v in values]
        return [self._model.get_image_embeddings(torch.stack(padded)).float()]

    def _given(self, features: list[Tensor]) -> Tensor:
        return features[0]

    def _full_size(self, logits: Tensor, resized: Size, size: Size) -> Tensor:
        from torch.nn.functional import interpolate

        side = self._model.config.vision_config.image_size
        square = interpolate(logits, (side, side), mode="bilinear", align_corners=False)
        part = square[..., : resized[0], : resized[1]]
        return interpolate(part, size, mode="bilinear", align_corners=False)


@dataclass
class Sam2(_BoxPrompted):
    """The second generation: an image is squeezed to a square.

    Its own image processor exists for torchvision alone; Pillow's differs from it by at most one
    grey level in 255 after resizing (tests hold it).
    """

    name: Literal["sam2"] = "sam2"
    """Selects this backend."""
    model: str = "facebook/sam2.1-hiera-large"
    """Hub id or folder of a `sam2` or `sam2_video` checkpoint in the layout of transformers."""
    revision: str | None = None
    """Revision on the hub."""
    max_batch: Annotated[int, Ge(1)] = field(default=8, metadata=OPERATIONAL)
    """Images in one pass of the image encoder."""
    max_boxes: Annotated[int, Ge(1)] = field(default=64, metadata=OPERATIONAL)
    """Boxes in one pass of the mask decoder."""

    def open(self, device: Device) -> None:
        """Load the model: the image encoder in the device's type, the mask decoder in float32.

        The checkpoints of the hub are those of the video model, whose memory is left out.
        """
        from transformers import Sam2Model, ViTImageProcessorPil

        classes = {"sam2": Sam2Model, "sam2_video": Sam2Model}
        self._load(classes, ViTImageProcessorPil, device)
        # The decoder's projections of the fine scales come next, inside the same method.
        self._model.vision_encoder.register_forward_hook(_in_float32)

    def _encoded(self, planes: Sequence[Tensor]) -> list[Tensor]:
        import torch

        values = self._images.normalized(torch.stack(list(planes)))
        features: list[Tensor] = self._model.get_image_embeddings(values)
        return features

    def _given(self, features: list[Tensor]) -> list[Tensor]:
        return features

    def _full_size(self, logits: Tensor, resized: Size, size: Size) -> Tensor:  # noqa: ARG002
        from torch.nn.functional import interpolate

        return interpolate(logits, size, mode="bilinear", align_corners=False)


SEGMENTERS = (Sam, Sam2)
"""What a recipe can choose from."""


def _in_float32(_module: object, _inputs: object, output: Any) -> Any:
    output.fpn_hidden_states = [feature.float() for feature in output.fpn_hidden_states]
    return output


def _scaled(box: Box, shape: tuple[int, ...], resized: Size) -> list[float]:
    """A box in pixels of the image, in pixels of the resized image."""
    height, width = shape[:2]
    return [*box.clipped(width, height).scaled(resized[1] / width, resized[0] / height)]
