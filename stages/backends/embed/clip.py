"""CLIP (arXiv 2103.00020) by transformers: images and sentences in one space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge

from stages.backends.weights.checkpoints import Checkpoint
from stages.base import OPERATIONAL, Device, Settings

if TYPE_CHECKING:
    from stages.backends.embed.clip_model import ClipModel


@dataclass(frozen=True)
class ClipSettings(Settings):
    """A CLIP checkpoint in the layout of transformers."""

    name: Literal["clip"] = "clip"
    """Selects this backend."""
    model: str = "openai/clip-vit-large-patch14-336"
    """Hub id or folder of a `clip` checkpoint."""
    revision: str | None = None
    """Revision on the hub."""
    view: Literal["crop", "whole"] = "crop"
    """"crop" is the checkpoint's own: the middle square, so what lies beside it is not seen.
    "whole" squeezes the whole image into the square."""
    max_batch: Annotated[int, Ge(1)] = field(default=32, metadata=OPERATIONAL)
    """Images, or sentences, in one pass."""

    def checkpoints(self) -> Sequence[Checkpoint]:
        """The one model. OpenAI's own of 336 px has no safetensors on its main branch."""
        weights = ("*.safetensors", "pytorch_model.bin")
        return (Checkpoint(self.model, self.revision, ("*.json", "merges.txt", *weights)),)

    def load(self, device: Device) -> ClipModel:
        """Load both towers and the tokenizer."""
        from stages.backends.embed.clip_model import ClipModel

        return ClipModel(self, device)
