"""DINOv2 (arXiv 2304.07193) as an embedder: sees local detail and forgives little."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge

from stages.backends.weights.checkpoints import Checkpoint
from stages.base import OPERATIONAL, Device, Settings

if TYPE_CHECKING:
    from stages.backends.embed.dinov2_model import Dinov2Model


@dataclass(frozen=True)
class Dinov2Settings(Settings):
    """One vector an image, from DINOv2 with or without register tokens."""

    name: Literal["dinov2"] = "dinov2"
    """Selects this backend."""
    model: str = "facebook/dinov2-large"
    """Hub id or folder of a `dinov2` or `dinov2_with_registers` checkpoint."""
    revision: str | None = None
    """Revision on the hub."""
    pooling: Literal["cls", "mean"] = "cls"
    """The class token, or the mean of the patch tokens (register tokens left out); both after the
    last layer norm."""
    view: Literal["crop", "whole"] = "crop"
    """"crop" is the checkpoint's own: the shorter side to 256, then the middle 224 x 224, so what
    was edited near an edge is not seen. "whole" squeezes the whole image to 224 x 224."""
    max_batch: Annotated[int, Ge(1)] = field(default=32, metadata=OPERATIONAL)
    """Images in one pass."""

    def checkpoints(self) -> Sequence[Checkpoint]:
        """The one model."""
        return (Checkpoint(self.model, self.revision),)

    def load(self, device: Device) -> Dinov2Model:
        """Load the model."""
        from stages.backends.embed.dinov2_model import Dinov2Model

        return Dinov2Model(self, device)
