"""Paints images from descriptions: OViP's negatives (arXiv 2505.15963). Knows no models."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal, Protocol, runtime_checkable

from annotated_types import Ge, Le, MultipleOf

from schemas.ids import content_id, row_seed
from schemas.records import Candidate, Drop, Reason
from schemas.texts import Described
from stages.base import BackendSettings, Model, Stage
from stages.edit.canvas import Size, covered, elongation
from stages.pixels import Pixels, decode, encode_jpeg

MULTIPLE = 16
"""Sides of painted images are multiples of this: latents are an eighth as long, in patches of 2."""


@runtime_checkable
class SynthesizerModel(Model, Protocol):
    """What paints."""

    def count_tokens(self, descriptions: Sequence[str]) -> list[int]:
        """Lengths of descriptions, to be held against `max_tokens`."""

    def synthesize(
        self, descriptions: Sequence[str], seeds: Sequence[int], size: Size
    ) -> list[Pixels]:
        """One image of `size` for each description and its seed, in order.

        What comes of a (description, seed, size) does not depend on what else is asked for.
        """


@runtime_checkable
class SynthesizerBackend(BackendSettings[SynthesizerModel], Protocol):
    """Its settings."""

    @property
    def max_tokens(self) -> int:
        """Longest description that it reads to its end."""


@dataclass(frozen=True)
class Synthesizer(Stage[Described, Candidate]):
    """Paints each description, and brings original and painting to one size.

    OViP paints 384 x 384 and leaves the original as it is, so the size alone tells the two apart;
    so would sharpness if one were enlarged to match. Here both end at the same size and neither is
    ever enlarged: the larger one is reduced to the size of the smaller.
    """

    backend: SynthesizerBackend
    """What paints."""
    side: Annotated[int, MultipleOf(16), Ge(64), Le(4096)] = 384
    """Side of a painted square, in pixels; other shapes get about the same area."""
    shape: Literal["original", "square"] = "original"
    """"original" paints in the original's shape, which loses a rim of a few pixels at most.
    "square", as OViP does, crops the original to its middle square, which may cut off what the
    answer mentions."""
    num_images: Annotated[int, Ge(1), Le(16)] = 1
    """Paintings of each description; all are passed on, for a selector to choose."""
    max_elongation: Annotated[float, Ge(1), Le(10)] = 3.0
    """Largest ratio of longer to shorter side that is painted; models were trained up to about
    this."""

    def process(self, batch: Sequence[Described]) -> Sequence[Sequence[Candidate] | Drop]:
        """The paintings of each row, or why there are none; those of one size in one call."""
        sizes = self._sizes(batch)
        by_size: dict[Size, list[tuple[int, int]]] = {}
        for i, size in enumerate(sizes):
            if isinstance(size, Size):
                by_size.setdefault(size, []).extend((i, n) for n in range(self.num_images))
        made: dict[tuple[int, int], Pixels] = {}
        for size, rows in by_size.items():
            painted = self.loaded(self.backend).synthesize(
                [batch[i].description for i, _ in rows],
                [_seed(batch[i], number) for i, number in rows],
                size,
            )
            made.update(zip(rows, painted, strict=True))
        return [
            size
            if isinstance(size, Drop)
            else [_candidate(batch[i], made[i, n], size, n) for n in range(self.num_images)]
            for i, size in enumerate(sizes)
        ]

    def _sizes(self, batch: Sequence[Described]) -> list[Size | Drop]:
        """What size each row is painted in, or why it is not."""
        lengths = self.loaded(self.backend).count_tokens([record.description for record in batch])
        found: list[Size | Drop] = []
        for record, length in zip(batch, lengths, strict=True):
            own = Size(record.seed.width, record.seed.height)
            if elongation(own) > self.max_elongation:
                found.append(
                    Drop(
                        Reason.EXTREME_ASPECT,
                        f"the image is {own}, {elongation(own):.2f} to 1; at most "
                        f"{self.max_elongation:g} to 1 is painted",
                    )
                )
            elif length > self.backend.max_tokens:
                found.append(
                    Drop(
                        Reason.TEXT_TOO_LONG,
                        f"the description takes {length} tokens, the painter reads "
                        f"{self.backend.max_tokens}",
                        record.description,
                    )
                )
            else:
                found.append(self._painted(own))
        return found

    def _painted(self, own: Size) -> Size:
        if self.shape == "square":
            return Size(self.side, self.side)
        height = max(1, round(self.side / math.sqrt(own.aspect) / MULTIPLE)) * MULTIPLE
        width = max(1, round(height * own.aspect / MULTIPLE)) * MULTIPLE
        return Size(width, height)


def _seed(record: Described, number: int) -> int:
    # One seed may have several descriptions; the same noise would give them one composition.
    stage = f"synthesizer {content_id(record.description)}"
    return row_seed(record.seed.run_seed, record.seed.seed_id, stage, number)


def _candidate(record: Described, painted: Pixels, size: Size, number: int) -> Candidate:
    seed = record.seed
    smaller = min(1.0, seed.width / size.width, seed.height / size.height)
    common = Size(max(1, round(size.width * smaller)), max(1, round(size.height * smaller)))
    return Candidate(
        seed=seed,
        contrast=record.contrast,
        regions=(),
        chosen_image=encode_jpeg(covered(decode(seed.image), common), seed.image.path),
        rejected_image=encode_jpeg(covered(painted, common)),
        counterfactual=record.counterfactual,
        written=record.texts,
        params={**record.params, "painted": str(size), "attempt": str(number)},
    )
