"""How similar the two images of a candidate are, overall and in detail. Judges nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from schemas.records import Candidate, Drop, ScoredCandidate
from stages.base import BackendSettings, Model, Stage
from stages.decide.vectors import cosine, unit_rows
from stages.pixels import Pixels, decode


@runtime_checkable
class EmbedderModel(Model, Protocol):
    """Turns images into vectors whose cosine measures how similar the images are."""

    def embed(self, images: Sequence[Pixels]) -> NDArray[np.float32]:
        """[N, D] rows of unit length, one for each uint8 [H, W, 3] RGB image, in order."""


@dataclass(frozen=True)
class Embedder(Stage[Candidate, ScoredCandidate]):
    """Adds the scores "appearance" and "detail": cosines of the original and its near miss.

    Both are measured on the decoded images, so they include the codec's losses. MVC (arXiv
    2502.13928) wants pairs with high SigLIP and low DINOv2 similarity: the same scene, visibly
    different.
    """

    appearance: BackendSettings[EmbedderModel]
    """Looks at the whole scene: stays near 1 while the scene is the same."""
    detail: BackendSettings[EmbedderModel]
    """Looks at local detail: falls below 1 with every visible change."""

    def process(self, batch: Sequence[Candidate]) -> Sequence[Sequence[ScoredCandidate] | Drop]:
        """One scored candidate for each candidate; no drops.

        ValueError if a backend gives rows that are not unit vectors.
        """
        if not batch:
            return []
        # By content: the candidates of one seed share their original, which is embedded once.
        images = {image.bytes: image for c in batch for image in (c.chosen_image, c.rejected_image)}
        row_of = {data: row for row, data in enumerate(images)}
        decoded = [decode(image) for image in images.values()]
        vectors = {
            name: unit_rows(backend, self.loaded(backend).embed(decoded), "images", len(decoded))
            for name, backend in (("appearance", self.appearance), ("detail", self.detail))
        }
        outcomes = []
        for candidate in batch:
            pair = [row_of[i.bytes] for i in (candidate.chosen_image, candidate.rejected_image)]
            scores = {name: cosine(*rows[pair]) for name, rows in vectors.items()}
            outcomes.append([ScoredCandidate(candidate, scores)])
        return outcomes
