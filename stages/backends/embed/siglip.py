"""SigLIP (arXiv 2303.15343) and SigLIP 2 (arXiv 2502.14786) as embedders: see the whole scene.

The image tower alone is loaded; the vector is what its attention pooling head gives.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge

from stages.backends.weights.checkpoints import Checkpoint
from stages.base import OPERATIONAL, Device, Settings

if TYPE_CHECKING:
    from stages.backends.embed.siglip_model import SiglipModel


@dataclass(frozen=True)
class SiglipSettings(Settings):
    """One vector an image.

    SigLIP, and SigLIP 2 of a fixed size (which has the same type), squeeze the image to a square.
    SigLIP 2 NaFlex keeps its shape: as many patches as fit into the checkpoint's number.
    """

    name: Literal["siglip"] = "siglip"
    """Selects this backend."""
    model: str = "google/siglip-so400m-patch14-384"
    """Hub id or folder of a `siglip` or `siglip2` checkpoint, whole or its image tower."""
    revision: str | None = None
    """Revision on the hub."""
    max_batch: Annotated[int, Ge(1)] = field(default=32, metadata=OPERATIONAL)
    """Images in one pass."""

    def checkpoints(self) -> Sequence[Checkpoint]:
        """The one model."""
        return (Checkpoint(self.model, self.revision),)

    def load(self, device: Device) -> SiglipModel:
        """Load the image tower; CheckpointError if it has no pooling head."""
        from stages.backends.embed.siglip_model import SiglipModel

        return SiglipModel(self, device)
