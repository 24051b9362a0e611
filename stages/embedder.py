"""How alike the two images of a candidate are, overall and in detail. Judges nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from schemas.records import Candidate, Drop, ScoredCandidate
from stages.base import Backend, Stage
from stages.pixels import Pixels, decode


@runtime_checkable
class EmbedderBackend(Backend, Protocol):
    """Turns pictures into vectors whose cosine says how alike the pictures are."""

    def embed(self, images: Sequence[Pixels]) -> NDArray[np.float32]:
        """[N, D] rows of unit length, one for each uint8 [H, W, 3] RGB picture, in order."""


@dataclass(frozen=True)
class Embedder(Stage[Candidate, ScoredCandidate]):
    """Adds the scores "appearance" and "detail": cosines of the original and its near miss.

    Measured on the decoded images, so that whatever the codec did is part of the score. MVC
    (arXiv 2502.13928) asks for pairs of high SigLIP and low DINOv2 similarity: the same scene,
    visibly different.
    """

    consumes: ClassVar[type] = Candidate
    produces: ClassVar[type] = ScoredCandidate

    appearance: EmbedderBackend
    """Sees the whole scene: stays near 1 while it is the same scene."""
    detail: EmbedderBackend
    """Sees local detail: falls below 1 with every visible change."""

    def backends(self) -> Sequence[Backend]:
        """Both embedders."""
        return (self.appearance, self.detail)

    def process(self, batch: Sequence[Candidate]) -> Sequence[Sequence[ScoredCandidate] | Drop]:
        """One scored candidate for each candidate; no drops.

        ValueError if a backend gives rows that are not unit vectors.
        """
        if not batch:
            return []
        # By content: the candidates of one seed share their original, which is embedded once.
        images = {image.bytes: image for c in batch for image in (c.chosen_image, c.rejected_image)}
        row_of = {data: row for row, data in enumerate(images)}
        pictures = [decode(image) for image in images.values()]
        vectors = {
            "appearance": _embed(self.appearance, pictures),
            "detail": _embed(self.detail, pictures),
        }
        outcomes = []
        for candidate in batch:
            pair = [row_of[i.bytes] for i in (candidate.chosen_image, candidate.rejected_image)]
            scores = {name: _cosine(*rows[pair]) for name, rows in vectors.items()}
            outcomes.append([ScoredCandidate(candidate, scores)])
        return outcomes


def _embed(backend: EmbedderBackend, pictures: Sequence[Pixels]) -> NDArray[np.float64]:
    rows = np.asarray(backend.embed(pictures), np.float64)
    if rows.ndim != 2 or len(rows) != len(pictures):
        raise ValueError(
            f"{type(backend).__name__} gave an array of shape {rows.shape} "
            f"for {len(pictures)} pictures; one row each is expected"
        )
    lengths = np.sqrt(np.sum(rows**2, axis=1))
    wrong = lengths[~(np.abs(lengths - 1) < 1e-2)]  # so written, it takes NaN for wrong
    if len(wrong):
        raise ValueError(
            f"{type(backend).__name__} gave a row of length {wrong[0]}; unit length is expected"
        )
    return np.asarray(rows / lengths[:, None])


def _cosine(first: NDArray[np.float64], second: NDArray[np.float64]) -> float:
    # A sum, not a BLAS product, whose last digits depend on the number of threads.
    return float(np.clip(np.sum(first * second), -1.0, 1.0))
