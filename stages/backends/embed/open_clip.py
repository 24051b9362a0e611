"""CLIP by open_clip: checkpoints of LAION and others in that library's layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge

from stages.backends.weights.checkpoints import Checkpoint, CheckpointError
from stages.base import OPERATIONAL, Device, Settings

if TYPE_CHECKING:
    from stages.backends.embed.open_clip_model import OpenClipModel

_FILES = ("*.json", "*.txt", "*.model", "open_clip_model.safetensors")
"""With the tokenizer's, where a checkpoint has its own."""


@dataclass(frozen=True)
class OpenClipSettings(Settings):
    """A folder with open_clip_config.json and weights. Needs the extra `open_clip`."""

    name: Literal["open_clip"] = "open_clip"
    """Selects this backend."""
    model: str = "laion/CLIP-ViT-L-14-laion2B-s32B-b82K"
    """Hub id or folder in the layout of open_clip."""
    revision: str | None = None
    """Revision on the hub."""
    view: Literal["crop", "whole"] = "crop"
    """"crop" is the checkpoint's own way to a square, mostly its middle. "whole" squeezes the whole
    image into it."""
    max_batch: Annotated[int, Ge(1)] = field(default=32, metadata=OPERATIONAL)
    """Images, or sentences, in one pass."""

    def checkpoints(self) -> Sequence[Checkpoint]:
        """The one model."""
        return (Checkpoint(self.model, self.revision, _FILES),)

    def load(self, device: Device) -> OpenClipModel:
        """Load both towers and the tokenizer; CheckpointError in one line if they do not fit."""
        try:
            from stages.backends.embed.open_clip_model import OpenClipModel
        except ImportError:
            raise CheckpointError(
                "the backend open_clip needs open_clip_torch, which is not installed; "
                "pip install 'nearmiss[open-clip]'"
            ) from None
        return OpenClipModel(self, device)
