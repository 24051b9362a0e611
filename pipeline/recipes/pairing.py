"""The settings of a recipe for pairing images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from annotated_types import Ge, Le, Lt


@dataclass(frozen=True)
class Pairing:
    """Pairs each seed with another image of the input, similar but not the same.

    SymMPO (arXiv 2506.11712) pairs each image with a similar one; its thresholds are not published.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid", "arbitrary_types_allowed": True}

    embedder: Any
    """Backend whose cosines measure how similar two images are."""
    min_similarity: Annotated[float, Ge(-1), Le(1)] = 0.6
    """Below this cosine the images have nothing in common."""
    max_similarity: Annotated[float, Ge(-1), Le(1)] = 0.95
    """Above this cosine they are the same image, or nearly."""
    neighbours: Annotated[int, Ge(1), Le(1024)] = 32
    """How many of the most similar images are considered; a later one is taken if the image is
    already paired with the earlier ones."""
    validation: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Share of the images set aside: they are paired among themselves, so that no image is on both
    sides of the split. Their pairs carry "fold": "validation" in `provenance.params`, which
    `export --validation` and the trainer's `held_out` follow. With 0 nothing is held out."""

    def __post_init__(self) -> None:
        """ValueError for an empty window."""
        if self.min_similarity > self.max_similarity:
            raise ValueError(
                f"min_similarity {self.min_similarity} is above max_similarity "
                f"{self.max_similarity}; no pair can meet both"
            )
