"""Pictures to tensors as a checkpoint's own image processor does it, the arithmetic on the device.

Imported by backends in `open`. The processors' Pillow form sizes and crops; it is the same on every
machine and needs no torchvision. Rescaling and normalising are done on the device: bytes are a
quarter of what the CPU would have to send.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from stages.pixels import Pixels


class Pictures:
    """From uint8 [H, W, 3] RGB pictures to the tensors that a model takes."""

    def __init__(self, processor: Any, device: torch.device, dtype: torch.dtype) -> None:
        """`processor` is a Pillow image processor of transformers, from the checkpoint."""
        self._processor, self._device, self._dtype = processor, device, dtype
        rescale = processor.rescale_factor if processor.do_rescale else 1.0
        mean, std = (
            (processor.image_mean, processor.image_std) if processor.do_normalize else (0.0, 1.0)
        )
        self._scale = self._per_channel(rescale)
        self._mean, self._std = self._per_channel(mean), self._per_channel(std)

    def resized(self, image: Pixels) -> torch.Tensor:
        """uint8 [3, h, w] on the CPU: sized and cropped, neither rescaled nor padded."""
        done = self._processor(
            image,
            do_rescale=False,
            do_normalize=False,
            do_pad=False,
            input_data_format="channels_last",
        )
        planes = np.ascontiguousarray(done["pixel_values"][0])
        assert planes.dtype == np.uint8, planes.dtype
        return torch.from_numpy(planes)

    def normalized(self, planes: torch.Tensor) -> torch.Tensor:
        """[..., 3, h, w] of the model's type on the device, from bytes; computed in float32."""
        values = planes.to(self._device).float() * self._scale
        return ((values - self._mean) / self._std).to(self._dtype)

    def stacked(self, images: Sequence[Pixels]) -> torch.Tensor:
        """[N, 3, h, w], for processors that bring every picture to one size."""
        return self.normalized(torch.stack([self.resized(image) for image in images]))

    def _per_channel(self, values: float | Sequence[float]) -> torch.Tensor:
        tensor = torch.tensor(values, dtype=torch.float32, device=self._device)
        return tensor.expand(3).reshape(3, 1, 1)


def chunks(count: int, size: int) -> list[slice]:
    """Slices of at most `size` that cover `count` things in order."""
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]
