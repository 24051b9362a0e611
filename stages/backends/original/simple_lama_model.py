"""LaMa by simple-lama-inpainting: the same big-lama.pt, one image at a time.

The package gives an image padded to a multiple of 8 back as it is, and changes pixels beside the
hole; both are put right here.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import PIL.Image
import simple_lama_inpainting
from numpy.typing import NDArray

from stages.backends.weights.checkpoints import (
    UNREADABLE,
    CheckpointError,
    first_line,
    locate,
)
from stages.backends.weights.torch_device import TorchModel
from stages.base import Device
from stages.pixels import Pixels

if TYPE_CHECKING:
    from stages.backends.original.simple_lama import SimpleLamaSettings

BoolMask = NDArray[np.bool_]


class SimpleLamaModel(TorchModel):
    """simple-lama-inpainting 0.1.2. Its successor here is the backend `lama`."""

    def __init__(self, settings: SimpleLamaSettings, device: Device) -> None:
        """Load the file; CheckpointError in one line if it is no TorchScript."""
        super().__init__(device)
        self.settings = settings

        path = locate(settings.checkpoints()[0])
        # The package takes the path from the environment alone, and downloads without it.
        before = os.environ.get("LAMA_MODEL")
        os.environ["LAMA_MODEL"] = str(path)
        try:
            self._inpaint = simple_lama_inpainting.SimpleLama(device=self.where)
        except UNREADABLE as error:
            raise CheckpointError(f"{path} is no TorchScript file: {first_line(error)}") from error
        finally:
            if before is None:
                del os.environ["LAMA_MODEL"]
            else:
                os.environ["LAMA_MODEL"] = before

    def fill(
        self,
        images: Sequence[Pixels],
        masks: Sequence[BoolMask],
        avoid: Sequence[BoolMask],  # noqa: ARG002
    ) -> list[Pixels]:
        """Each image with its mask filled; the same bytes outside it. Ignores `avoid`."""
        return [self._filled(image, mask) for image, mask in zip(images, masks, strict=True)]

    def _filled(self, image: Pixels, mask: BoolMask) -> Pixels:
        hole = PIL.Image.fromarray(mask.astype(np.uint8) * 255)
        whole = np.asarray(self._inpaint(PIL.Image.fromarray(image), hole))
        return np.where(mask[..., None], whole[: image.shape[0], : image.shape[1]], image)
