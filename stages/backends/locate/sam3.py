"""Masks from words by SAM 3 (arXiv 2511.16719), "segment anything with concepts": the settings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Le

from stages.backends.weights.checkpoints import Checkpoint
from stages.base import OPERATIONAL, Device, Settings

if TYPE_CHECKING:
    from stages.backends.locate.sam3_model import Sam3Model


@dataclass(frozen=True)
class Sam3Settings(Settings):
    """Every instance of a tag, each with its mask: no segmenter is needed behind it."""

    name: Literal["sam3"] = "sam3"
    """Selects this backend."""
    model: str = "facebook/sam3"
    """Hub id or folder of a `sam3` or `sam3_video` checkpoint in the layout of transformers."""
    revision: str | None = None
    """Revision on the hub."""
    score_threshold: Annotated[float, Ge(0), Le(1)] = 0.5
    """Least score of an instance: the chance that it is one, times the chance that the image has
    any."""
    mask_threshold: Annotated[float, Ge(0), Le(1)] = 0.5
    """Least chance of a pixel that belongs to a mask."""
    max_instances: Annotated[int, Ge(1)] = 50
    """Most instances of one tag in an image; the most confident are kept."""
    max_batch: Annotated[int, Ge(1)] = field(default=4, metadata=OPERATIONAL)
    """Images in one pass of the image encoder."""
    max_tags: Annotated[int, Ge(1)] = field(default=16, metadata=OPERATIONAL)
    """Tags, each with the features of its image, in one pass of the rest."""

    def checkpoints(self) -> Sequence[Checkpoint]:
        """The one model."""
        return (Checkpoint(self.model, self.revision),)

    def load(self, device: Device) -> Sam3Model:
        """The model: its image encoder in the device's type, the rest in float32."""
        from stages.backends.locate.sam3_model import Sam3Model

        return Sam3Model(self, device)
