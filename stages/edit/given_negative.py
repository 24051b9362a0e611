"""Makes a candidate of a pair that the input brings: both images at one size, in one codec."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Literal

import numpy as np
import PIL.Image
from annotated_types import Ge, Lt

from schemas.records import Candidate, Contrast, Drop, Kind, Reason, Seed, Span
from stages.base import RecordStage
from stages.pixels import Pixels, decode, encode_pair
from stages.wording import difference


@dataclass(frozen=True)
class UseGivenNegative(RecordStage[Seed, Candidate]):
    """Makes a candidate of a row that has a given negative (MVC's sources, SymMPO, pair tables).

    The given negative gets the size of the original, because a model could learn a difference in
    size instead of one in content. What changed is read off the two answers.
    """

    fit: Literal["cover", "stretch"] = "cover"
    """How a given negative of another shape is fitted: scaled until it covers the original and cut
    on both sides, or stretched (right for editors that squash their input into a square)."""
    max_loss: Annotated[float, Ge(0), Lt(1)] = 0.3
    """Greatest share of the given negative that `cover` may cut off; above, the row is dropped."""
    default_kind: Kind = Kind.OBJECT
    """Kind of contrast of rows that do not name one."""
    needs_answer: bool = True
    """Drop rows without an answer to the other image; a later stage may write it otherwise."""

    def process_one(self, record: Seed) -> Sequence[Candidate] | Drop:
        """The candidate, or NO_GIVEN_NEGATIVE or SHAPE_MISMATCH."""
        other = record.given_negative
        if other is None:
            return Drop(
                Reason.NO_GIVEN_NEGATIVE,
                "the row has no other image: its column is named by --columns "
                "counterfactual_image=..., or no image of the input is similar enough",
            )
        answer = other.answer if other.answer and other.answer.strip() else None
        if answer is None and self.needs_answer:
            return Drop(Reason.NO_GIVEN_NEGATIVE, "no answer that is true of the other image")
        pixels = decode(other.image)
        fitted = self._fitted(pixels, record.width, record.height)
        if isinstance(fitted, Drop):
            return fitted
        chosen_image, rejected_image = encode_pair(record.image, fitted)
        target, replacement = ("image", "a similar image")
        if answer is not None:
            target, replacement = _changed(record.chosen, answer)
        return [
            Candidate(
                seed=replace(record, given_negative=None),
                contrast=Contrast(
                    other.kind or self.default_kind,
                    target,
                    replacement,
                    f"change {target} to {replacement}",
                ),
                regions=(),
                chosen_image=chosen_image,
                rejected_image=rejected_image,
                counterfactual=answer,
                params={
                    **other.params,
                    "given_size": f"{pixels.shape[1]}x{pixels.shape[0]}",
                },
            )
        ]

    def _fitted(self, pixels: Pixels, width: int, height: int) -> Pixels | Drop:
        if pixels.shape[:2] == (height, width):
            return pixels
        image = PIL.Image.fromarray(pixels)
        if self.fit == "stretch":
            return np.asarray(image.resize((width, height), PIL.Image.Resampling.LANCZOS))
        factor = max(width / image.width, height / image.height)
        kept = (width / factor, height / factor)
        loss = 1 - kept[0] * kept[1] / (image.width * image.height)
        if loss > self.max_loss:
            return Drop(
                Reason.SHAPE_MISMATCH,
                f"the other image is {image.width}x{image.height}, the original "
                f"{width}x{height}: {loss:.0%} of it would be cut off, at most "
                f"{self.max_loss:.0%}; fit: stretch keeps all of it",
            )
        left, top = (image.width - kept[0]) / 2, (image.height - kept[1]) / 2
        return np.asarray(
            image.resize(
                (width, height),
                PIL.Image.Resampling.LANCZOS,
                box=(left, top, left + kept[0], top + kept[1]),
            )
        )


def _changed(chosen: str, counterfactual: str) -> tuple[str, str]:
    """The words of each answer in which they differ; the whole answers if none can be found."""
    spans = difference(chosen, counterfactual)
    if spans is None:
        return chosen, counterfactual
    return _words(chosen, spans[0]), _words(counterfactual, spans[1])


def _words(text: str, spans: Sequence[Span]) -> str:
    return ", ".join(text[span.start : span.end] for span in spans)
