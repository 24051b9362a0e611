"""Grounding DINO by groundingdino-py, for the authors' .pth checkpoints: one prompt at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Le

from stages.backends.weights.checkpoints import (
    Checkpoint,
    CheckpointError,
)
from stages.base import DECIDING_FILE, Device, Settings

if TYPE_CHECKING:
    from stages.backends.original.groundingdino_model import GroundingDinoPyModel

_SOURCE = "github.com/IDEA-Research/GroundingDINO, under releases"


@dataclass(frozen=True)
class GroundingDinoPySettings(Settings):
    """groundingdino-py 0.4.0 with transformers below 5. Its successor is `grounding_dino`.

    Thresholds mean the same as there.
    """

    name: Literal["groundingdino_py"] = "groundingdino_py"
    """Selects this backend."""
    model: str = "groundingdino_swint_ogc.pth"
    """The checkpoint's file, as its authors publish it."""
    config: str = field(default="GroundingDINO_SwinT_OGC.py", metadata=DECIDING_FILE)
    """One of the package's configurations, or a file; it is run as Python code."""
    text_encoder: str = "google-bert/bert-base-uncased"
    """Hub id or folder of the BERT whose tokenizer and layout the checkpoint uses."""
    box_threshold: Annotated[float, Ge(0), Le(1)] = 0.25
    """Least chance of the likeliest token of a tag, which is the score of its box."""
    text_threshold: Annotated[float, Ge(0), Le(1)] = 0.2
    """Least mean chance of a tag's tokens."""

    def checkpoints(self) -> Sequence[Checkpoint]:
        """The checkpoint, and BERT."""
        return (Checkpoint(self.model, source=_SOURCE), Checkpoint(self.text_encoder))

    def load(self, device: Device) -> GroundingDinoPyModel:
        """Load the file; CheckpointError in one line if a weight is missing.

        The package itself leaves missing weights at random.
        """
        try:
            from stages.backends.original.groundingdino_model import GroundingDinoPyModel
        except ImportError as error:
            raise CheckpointError(
                f"the backend groundingdino_py cannot be imported ({error}); give its actor group "
                "an environment with groundingdino-py and transformers below 5, or take the "
                "backend grounding_dino"
            ) from None
        return GroundingDinoPyModel(self, device)
