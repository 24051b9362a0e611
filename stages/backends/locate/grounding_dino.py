"""Boxes of named things by Grounding DINO (arXiv 2303.05499), by transformers.

All tags of an image stand in one prompt, "dog. red panda.", as many as fit; the model reads each
between its full stops without seeing the others. What it gives are chances for every token of the
prompt; as the prompt is put together from the tags' own tokens, which chance belongs to which tag
is known by position and not read back from decoded phrases, which run into each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Gt, Le

from stages.backends.weights.checkpoints import Checkpoint
from stages.base import OPERATIONAL, Device, Settings

if TYPE_CHECKING:
    from stages.backends.locate.grounding_dino_model import GroundingDinoModel


@dataclass(frozen=True)
class GroundingDinoSettings(Settings):
    """Weights stay in float32; with a half-precision device, products are computed in its type.

    So boxes, reference points and sine embeddings keep their precision: bfloat16 would round the
    corners of a box to multiples of 4 pixels.
    """

    name: Literal["grounding_dino"] = "grounding_dino"
    """Selects this backend."""
    model: str = "IDEA-Research/grounding-dino-base"
    """Hub id or folder of a `grounding-dino` checkpoint in the layout of transformers."""
    revision: str | None = None
    """Revision on the hub."""
    box_threshold: Annotated[float, Ge(0), Le(1)] = 0.25
    """Least chance of the likeliest token of a tag, which is the score of its box."""
    text_threshold: Annotated[float, Ge(0), Le(1)] = 0.2
    """Least mean chance of a tag's tokens: a box that is likely for "red" alone is no red panda."""
    synonym_share: Annotated[float, Gt(0), Le(1)] = 0.8
    """A box gets every tag whose score is at least this share of its best tag's: "man" beside
    "person", so that the stage can keep the answer's word. 1 leaves each box one tag."""
    faint_threshold: Annotated[float, Ge(0), Le(1)] = 0.1
    """The same two chances, at least, for tags that cannot name a box but may be what it shows:
    "car" 0.40 beside "suv" 0.60. They go into the record of the thing."""
    side_step: Annotated[int, Ge(1), Le(128)] = 1
    """The sides to which an image is resized are rounded to multiples of this. Only images of
    the same resized size share a pass: with 32 there are tens of sizes instead of hundreds, at the
    price of a stretch by 2 % at most."""
    max_batch: Annotated[int, Ge(1)] = field(default=8, metadata=OPERATIONAL)
    """Prompts with their images in one pass."""

    def checkpoints(self) -> Sequence[Checkpoint]:
        """The one model."""
        return (Checkpoint(self.model, self.revision),)

    def load(self, device: Device) -> GroundingDinoModel:
        """Load the model, its tokenizer and the size of its images."""
        from stages.backends.locate.grounding_dino_model import GroundingDinoModel

        return GroundingDinoModel(self, device)
