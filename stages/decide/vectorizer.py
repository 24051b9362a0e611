"""The image of a seed as a vector, for recipes that pair images. Judges nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from schemas.ids import content_id
from schemas.records import Drop, Seed
from schemas.vectors import Vectored
from stages.base import BackendSettings, Model, Stage
from stages.decide.vectors import unit_rows
from stages.pixels import Pixels, decode


@runtime_checkable
class VectorModel(Model, Protocol):
    """Turns images into vectors whose cosine measures how similar the images are."""

    def embed(self, images: Sequence[Pixels]) -> NDArray[np.float32]:
        """[N, D] rows of unit length, one for each uint8 [H, W, 3] RGB image, in order."""


@dataclass(frozen=True)
class Vectorizer(Stage[Seed, Vectored]):
    """Computes the vectors of the seeds' images, once for all seeds about one image."""

    backend: BackendSettings[VectorModel]
    """The embedder."""

    def process(self, batch: Sequence[Seed]) -> Sequence[Sequence[Vectored] | Drop]:
        """One vector for each seed; no drops. ValueError for rows that are not unit vectors."""
        images = {seed.image.bytes: seed.image for seed in batch}
        given = self.loaded(self.backend).embed([decode(i) for i in images.values()])
        rows = unit_rows(self.backend, given, "images", len(images))
        row_of = {data: tuple(row.tolist()) for data, row in zip(images, rows, strict=True)}
        return [
            [Vectored(seed.seed_id, content_id(seed.image.bytes), row_of[seed.image.bytes])]
            for seed in batch
        ]
