"""Holes filled by LaMa (arXiv 2109.07161): the exported `big-lama.pt`, a TorchScript file.

Its Fourier layers see the whole image, so an image padded to another size is another image to
them. Only images of the same padded size share a pass; none is padded for the sake of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Le

from stages.backends.weights.checkpoints import Checkpoint
from stages.base import OPERATIONAL, Device, Settings

if TYPE_CHECKING:
    from stages.backends.inpaint.lama_model import LamaModel


@dataclass(frozen=True)
class LamaSettings(Settings):
    """Runs in float32 on any device: the Fourier transform has no form in bfloat16."""

    name: Literal["lama"] = "lama"
    """Selects this backend."""
    model: str = "fashn-ai/LaMa"
    """Hub id or folder that holds `file`, or the file itself."""
    revision: str | None = None
    """Revision on the hub."""
    file: str = "big-lama.pt"
    """The TorchScript file in the repository or folder: (image [N, 3, H, W] in 0..1, mask
    [N, 1, H, W] of 0 and 1) to image."""
    max_side: Annotated[int, Ge(64)] = 2048
    """An image whose longer side is above this is reduced to it for filling, its hole enlarged
    again afterwards. LaMa was trained at 256 and holds up to about 2000."""
    dilation_px: Annotated[int, Ge(0), Le(64)] = 0
    """Pixels of what the network sees by which the hole is grown for it, beyond what the stage has
    grown it: colours of the object that shine past its edge are hidden from the network, but only
    the stage's hole is filled."""
    max_batch: Annotated[int, Ge(1)] = field(default=8, metadata=OPERATIONAL)
    """Images of one size in one pass."""

    def checkpoints(self) -> Sequence[Checkpoint]:
        """The one file."""
        return (Checkpoint(self.model, self.revision, patterns=(self.file,)),)

    def load(self, device: Device) -> LamaModel:
        """Load the file and try it on an empty image.

        CheckpointError if it is no TorchScript, or does something else.
        """
        from stages.backends.inpaint.lama_model import LamaModel

        return LamaModel(self, device)
