"""SAM by Meta's own package, for its .pth checkpoints: the settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge

from stages.backends.weights.checkpoints import Checkpoint, CheckpointError
from stages.base import OPERATIONAL, Device, Settings

if TYPE_CHECKING:
    from stages.backends.original.segment_anything_model import SegmentAnythingModel

_SOURCE = "github.com/facebookresearch/segment-anything, section Model Checkpoints"


@dataclass(frozen=True)
class SegmentAnythingSettings(Settings):
    """segment-anything 1.0. Its successor here is the backend `sam`."""

    name: Literal["segment_anything"] = "segment_anything"
    """Selects this backend."""
    model: str = "sam_vit_h_4b8939.pth"
    """The checkpoint's file, as Meta publishes it."""
    architecture: Literal["vit_h", "vit_l", "vit_b"] = "vit_h"
    """Which of the package's networks the file is for."""
    max_boxes: Annotated[int, Ge(1)] = field(default=64, metadata=OPERATIONAL)
    """Boxes in one pass of the mask decoder."""

    def checkpoints(self) -> Sequence[Checkpoint]:
        """The one file."""
        return (Checkpoint(self.model, source=_SOURCE),)

    def load(self, device: Device) -> SegmentAnythingModel:
        """The model of the file; CheckpointError where the package is not installed."""
        try:
            from stages.backends.original.segment_anything_model import SegmentAnythingModel
        except ImportError as error:
            raise CheckpointError(
                f"the backend {self.name} cannot be imported ({error}); pip install "
                "'nearmiss[segment-anything]', or take the backend sam"
            ) from None
        return SegmentAnythingModel(self, device)
