"""Things and their boxes by Florence-2 (arXiv 2311.06242): its object detection task, as text.

The model writes "dog<loc_101><loc_240>...": a name, then four of 1000 places for each box. A tagger
takes the names, a detector the boxes; both are read from the tokens, so that each token's chance
is at hand for a score.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Le

from stages.backends.weights.checkpoints import Checkpoint
from stages.base import OPERATIONAL, Device, Settings

if TYPE_CHECKING:
    from stages.backends.locate.florence_model import FlorenceModel


@dataclass(frozen=True)
class FlorenceSettings(Settings):
    """Object detection without a list of classes; the same backend tags and detects.

    A score is the geometric mean of the chances of the tokens of a name and its box.
    """

    name: Literal["florence"] = "florence"
    """Selects this backend."""
    model: str = "florence-community/Florence-2-large"
    """Hub id or folder of a `florence2` checkpoint in the layout of transformers."""
    revision: str | None = None
    """Revision on the hub."""
    num_beams: Annotated[int, Ge(1), Le(16)] = 3
    """Beams of the search; 1 is greedy."""
    max_new_tokens: Annotated[int, Ge(6)] = 512
    """Most tokens written for an image; a thing needs 4 and its name. What is cut is left out."""
    max_batch: Annotated[int, Ge(1)] = field(default=8, metadata=OPERATIONAL)
    """Images in one pass."""

    def checkpoints(self) -> Sequence[Checkpoint]:
        """The one model."""
        return (Checkpoint(self.model, self.revision),)

    def load(self, device: Device) -> FlorenceModel:
        """Load the model and its tokenizer; CheckpointError if they cannot do what is asked."""
        from stages.backends.locate.florence_model import FlorenceModel

        return FlorenceModel(self, device)
