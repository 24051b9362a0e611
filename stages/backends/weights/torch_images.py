"""Images to tensors as a checkpoint's own image processor does it, the arithmetic on the device.

The processors' Pillow form sizes and crops; it is the same on every
machine and needs no torchvision. Rescaling and normalising are done on the device: bytes are a
quarter of what the CPU would have to send.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from stages.pixels import Pixels


class Images:
    """From uint8 [H, W, 3] RGB images to the tensors that a model takes."""

    def __init__(
        self, processor: Any, device: torch.device, dtype: torch.dtype, *, whole: bool = False
    ) -> None:
        """`processor` is a Pillow image processor of transformers, from the checkpoint.

        `whole` squeezes the image to the size to which the processor would crop it.
        """
        self._processor, self._device, self._dtype = processor, device, dtype
        self._sizing: dict[str, Any] = {"do_pad": False}
        if whole and processor.do_center_crop:
            crop = processor.crop_size
            size = {"height": crop["height"], "width": crop["width"]}
            self._sizing |= {"size": size, "do_center_crop": False}
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
            input_data_format="channels_last",
            **self._sizing,
        )
        planes = np.ascontiguousarray(done["pixel_values"][0])
        assert planes.dtype == np.uint8, planes.dtype
        return torch.from_numpy(planes)

    def normalized(self, planes: torch.Tensor) -> torch.Tensor:
        """[..., 3, h, w] of the model's type on the device, from bytes; computed in float32."""
        values = planes.to(self._device).float() * self._scale
        return ((values - self._mean) / self._std).to(self._dtype)

    def stacked(self, images: Sequence[Pixels]) -> torch.Tensor:
        """[N, 3, h, w], for processors that bring every image to one size."""
        return self.normalized(torch.stack([self.resized(image) for image in images]))

    def batch(self, images: Sequence[Pixels]) -> dict[str, torch.Tensor]:
        """What a model of images of one size takes."""
        return {"pixel_values": self.stacked(images)}

    def _per_channel(self, values: float | Sequence[float]) -> torch.Tensor:
        tensor = torch.tensor(values, dtype=torch.float32, device=self._device)
        return tensor.expand(3).reshape(3, 1, 1)


class Patches:
    """From images to the patches that SigLIP 2 NaFlex takes, each image in its own shape."""

    def __init__(self, processor: Any, device: torch.device, dtype: torch.dtype) -> None:
        """`processor` is the checkpoint's `Siglip2ImageProcessorPil`."""
        self._processor, self._device, self._dtype = processor, device, dtype

    def batch(self, images: Sequence[Pixels]) -> dict[str, torch.Tensor]:
        """Patches, their mask and their grids; every image is padded to the same number."""
        made = self._processor(list(images), return_tensors="pt", input_data_format="channels_last")
        inputs: dict[str, torch.Tensor] = {k: v.to(self._device) for k, v in made.items()}
        inputs["pixel_values"] = inputs["pixel_values"].to(self._dtype)
        return inputs


def unit_rows(vectors: torch.Tensor) -> NDArray[np.float32]:
    """[N, D] float32 rows of unit length, of vectors of any type."""
    rows: NDArray[np.float32] = torch.nn.functional.normalize(vectors.float(), dim=-1).cpu().numpy()
    return rows


def chunks(count: int, size: int) -> list[slice]:
    """Slices of at most `size` that cover `count` things in order."""
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]
