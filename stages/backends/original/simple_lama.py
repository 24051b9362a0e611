"""LaMa by simple-lama-inpainting: the same big-lama.pt, one image at a time.

The package gives an image padded to a multiple of 8 back as it is, and changes pixels beside the
hole; both are put right here.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from stages.backends.weights.checkpoints import (
    UNREADABLE,
    Checkpoint,
    CheckpointError,
    first_line,
    locate,
)
from stages.base import Device
from stages.pixels import Pixels

BoolMask = NDArray[np.bool_]

_SOURCE = "github.com/enesmsahin/simple-lama-inpainting, under releases"


@dataclass
class SimpleLama:
    """simple-lama-inpainting 0.1.2. Its successor here is the backend `lama`."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    name: Literal["simple_lama"] = "simple_lama"
    """Selects this backend."""
    model: str = "big-lama.pt"
    """The TorchScript file."""
    _inpaint: Any = field(default=None, init=False, repr=False, compare=False)
    _device: Any = field(default=None, init=False, repr=False, compare=False)

    def checkpoints(self) -> Sequence[Checkpoint]:
        """The one file."""
        return (Checkpoint(self.model, source=_SOURCE),)

    def open(self, device: Device) -> None:
        """Load the file; CheckpointError in one line if it is no TorchScript."""
        from stages.backends.weights.torch_device import place

        try:
            import simple_lama_inpainting
        except ImportError as error:
            raise CheckpointError(
                f"the backend simple_lama cannot be imported ({error}); give its actor group an "
                "environment with simple-lama-inpainting, or take the backend lama"
            ) from None
        self._device, _ = place(device)
        path = locate(self.checkpoints()[0])
        # The package takes the path from the environment alone, and downloads without it.
        before = os.environ.get("LAMA_MODEL")
        os.environ["LAMA_MODEL"] = str(path)
        try:
            self._inpaint = simple_lama_inpainting.SimpleLama(device=self._device)
        except UNREADABLE as error:
            raise CheckpointError(f"{path} is no TorchScript file: {first_line(error)}") from error
        finally:
            if before is None:
                del os.environ["LAMA_MODEL"]
            else:
                os.environ["LAMA_MODEL"] = before

    def close(self) -> None:
        """Free the device."""
        if self._inpaint is not None:
            from stages.backends.weights.torch_device import free

            self._inpaint = None
            free(self._device)

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
