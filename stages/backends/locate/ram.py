"""Tags by RAM and RAM++, from the authors' own checkpoint files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge

from stages.backends.weights.checkpoints import (
    Checkpoint,
)
from stages.base import DECIDING_FILE, OPERATIONAL, Device, Settings

if TYPE_CHECKING:
    from stages.backends.locate.ram_model import RamModel

_SOURCE = "github.com/xinyu1205/recognize-anything, folder ram/data"


@dataclass(frozen=True)
class RamSettings(Settings):
    """RAM or RAM++, whichever the checkpoint is.

    A tag is given where its probability is above its own threshold. The tag list and the thresholds
    are files of the authors' repository, not of the checkpoint; one line for every tag.
    """

    name: Literal["ram"] = "ram"
    """Selects this backend."""
    model: str = "xinyu1205/recognize-anything-plus-model"
    """Hub id or folder that holds `file`, or the file itself."""
    revision: str | None = None
    """Revision on the hub."""
    file: str = "ram_plus_swin_large_14m.pth"
    """Checkpoint in the repository or folder; RAM's is `ram_swin_large_14m.pth`."""
    tag_list: str = field(default="ram_tag_list.txt", metadata=DECIDING_FILE)
    """Path of the tags' names, in the order of the checkpoint."""
    thresholds: str = field(default="ram_tag_list_threshold.txt", metadata=DECIDING_FILE)
    """Path of the tags' least probabilities, in the same order."""
    image_size: Annotated[int, Ge(1)] = 384
    """Side in pixels to which images are squeezed: the one that the checkpoint was trained on."""
    ignore: tuple[str, ...] = ("tag_encoder.", "text_decoder.")
    """Beginnings of keys that are not read: what RAM needs to write captions. Every other key must
    have a place in the model."""
    max_batch: Annotated[int, Ge(1)] = field(default=16, metadata=OPERATIONAL)
    """Images in one pass."""

    def checkpoints(self) -> Sequence[Checkpoint]:
        """The weights, the names and the thresholds."""
        return (
            Checkpoint(self.model, self.revision, patterns=(self.file,)),
            Checkpoint(self.tag_list, source=_SOURCE),
            Checkpoint(self.thresholds, source=_SOURCE),
        )

    def load(self, device: Device) -> RamModel:
        """Load the model and both lists.

        CheckpointError in one line for a file that is missing, no RAM checkpoint, or does not fit
        the others.
        """
        from stages.backends.locate.ram_model import RamModel

        return RamModel(self, device)
