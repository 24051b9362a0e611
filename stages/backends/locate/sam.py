"""Masks from boxes by SAM (arXiv 2304.02643) and SAM 2.1 (arXiv 2408.00714): the settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge

from stages.backends.weights.checkpoints import Checkpoint
from stages.base import OPERATIONAL, Device, Settings

if TYPE_CHECKING:
    from stages.backends.locate.sam_model import Sam2Model, SamModel


@dataclass(frozen=True)
class SamSettings(Settings):
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

    def checkpoints(self) -> Sequence[Checkpoint]:
        """The one model."""
        return (Checkpoint(self.model, self.revision),)

    def load(self, device: Device) -> SamModel:
        """The model: its image encoder in the device's type, its mask decoder in float32."""
        from stages.backends.locate.sam_model import SamModel

        return SamModel(self, device)


@dataclass(frozen=True)
class Sam2Settings(Settings):
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

    def checkpoints(self) -> Sequence[Checkpoint]:
        """The one model."""
        return (Checkpoint(self.model, self.revision),)

    def load(self, device: Device) -> Sam2Model:
        """The model: its image encoder in the device's type, its mask decoder in float32."""
        from stages.backends.locate.sam_model import Sam2Model

        return Sam2Model(self, device)


SEGMENTERS = (SamSettings, Sam2Settings)
"""What a recipe can choose from."""
