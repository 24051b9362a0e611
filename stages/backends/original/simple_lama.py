"""LaMa by simple-lama-inpainting: the same big-lama.pt, one image at a time.

The package gives an image padded to a multiple of 8 back as it is, and changes pixels beside the
hole; both are put right here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from stages.backends.weights.checkpoints import (
    Checkpoint,
    CheckpointError,
)
from stages.base import Device, Settings

if TYPE_CHECKING:
    from stages.backends.original.simple_lama_model import SimpleLamaModel

_SOURCE = "github.com/enesmsahin/simple-lama-inpainting, under releases"


@dataclass(frozen=True)
class SimpleLamaSettings(Settings):
    """simple-lama-inpainting 0.1.2. Its successor here is the backend `lama`."""

    name: Literal["simple_lama"] = "simple_lama"
    """Selects this backend."""
    model: str = "big-lama.pt"
    """The TorchScript file."""

    def checkpoints(self) -> Sequence[Checkpoint]:
        """The one file."""
        return (Checkpoint(self.model, source=_SOURCE),)

    def load(self, device: Device) -> SimpleLamaModel:
        """Load the file; CheckpointError in one line if it is no TorchScript."""
        try:
            from stages.backends.original.simple_lama_model import SimpleLamaModel
        except ImportError as error:
            raise CheckpointError(
                f"the backend simple_lama cannot be imported ({error}); give its actor group an "
                "environment with simple-lama-inpainting, or take the backend lama"
            ) from None
        return SimpleLamaModel(self, device)
