"""Keeps candidates that show the same scene and yet differ visibly. Knows scores, not pixels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, ClassVar

from annotated_types import Ge, Le

from schemas.records import Drop, Kind, Reason, ScoredCandidate
from stages.base import RecordStage


@dataclass(frozen=True)
class Limits:
    """Limits on the scores of one kind of contrast; None sets no limit."""

    min_appearance: Annotated[float, Ge(-1), Le(1)] | None = None
    """Below this cosine the two images no longer show the same scene."""
    max_detail: Annotated[float, Ge(-1), Le(1)] | None = None
    """Above this cosine the difference cannot be seen."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}


DEFAULT_LIMITS: Mapping[Kind, Limits] = MappingProxyType(
    {
        Kind.OBJECT: Limits(min_appearance=0.7, max_detail=0.998),
        Kind.ATTRIBUTE: Limits(min_appearance=0.4, max_detail=0.998),
        Kind.COUNT: Limits(min_appearance=0.7, max_detail=0.998),
    }
)
"""Set from the scores of `color_layout` and `gradient_grid` on the demo's photos and scenes: an
unchanged pair has a detail of exactly 1, the smallest visible removals (0.7 % of the image) 0.998;
removals keep an appearance above 0.85, recoloured objects of up to a third of the image above 0.43,
and 95 % of unrelated photos stay below 0.6."""


@dataclass(frozen=True)
class DoubleThreshold(RecordStage[ScoredCandidate, ScoredCandidate]):
    """The double filter of MVC (arXiv 2502.13928), with limits for each kind of contrast.

    MVC requires SigLIP above 0.7 and DINOv2 below 0.5 of fully generated images, and exempts
    mirrored ones. A local edit keeps far more detail, so limits depend on the kind of contrast and
    on the embedders. A score that equals its limit passes.
    """

    limits: Mapping[Kind, Limits] = field(default_factory=lambda: dict(DEFAULT_LIMITS))
    """Limits by kind of contrast; a kind that is not listed passes unfiltered."""

    def process_one(self, record: ScoredCandidate) -> Sequence[ScoredCandidate] | Drop:
        """The candidate, or TOO_DIFFERENT or TOO_SIMILAR; ValueError for a missing or NaN score."""
        kind = record.candidate.contrast.kind
        limits = self.limits.get(kind)
        if limits is None:
            return [record]
        if limits.min_appearance is not None:
            value = _score(record, "appearance")
            if value < limits.min_appearance:
                detail = f"appearance {value:.4f}, at least {limits.min_appearance} for {kind}"
                return Drop(Reason.TOO_DIFFERENT, detail)
        if limits.max_detail is not None:
            value = _score(record, "detail")
            if value > limits.max_detail:
                detail = f"detail {value:.4f}, at most {limits.max_detail} for {kind}"
                return Drop(Reason.TOO_SIMILAR, detail)
        return [record]


def _score(record: ScoredCandidate, name: str) -> float:
    value = record.scores.get(name)
    if value is None:
        raise ValueError(
            f'no score "{name}" to filter by; the candidate has {sorted(record.scores)}; '
            "put an embedder before the filter"
        )
    if math.isnan(value):
        # Every comparison with NaN is false, so it would pass both limits.
        raise ValueError(f'score "{name}" is NaN; its embedder is broken')
    return value
