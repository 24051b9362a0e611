"""Sums of logistic terms: what all losses but two are made of. Knows margins, not papers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated

import torch
import torch.nn.functional as F  # noqa: N812  torch's own abbreviation
from pydantic import ConfigDict, Field
from torch import Tensor

from trainer.losses.base import LossOutput
from trainer.losses.views import View

STRICT = ConfigDict(extra="forbid")
"""Losses are made from configurations: an unknown or impossible setting is an error there."""

Beta = Annotated[float, Field(gt=0, allow_inf_nan=False)]
"""How strongly the reference holds: the factor of log-ratios in nats, without unit."""

Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
"""A term's factor; 0 removes the term and the views that it alone reads."""


@dataclass(frozen=True)
class Term:
    """weight * -log sigmoid(margin), one term of a loss."""

    name: str
    """As in the metrics; the same comparison has the same name in every loss."""
    margin: Tensor
    """[B], beta included."""
    weight: float = 1.0
    """Its factor in the row's loss."""
    compares: bool = True
    """Whether the margin compares two cells; an anchor holds one cell against its reference."""


def combine(
    terms: Sequence[Term],
    ratios: Mapping[View, Tensor],
    extra: Mapping[str, Tensor] | None = None,
) -> LossOutput:
    """The weighted sum of the terms, with the metrics that every loss has."""
    per_row = torch.stack([term.weight * logistic(term.margin) for term in terms]).sum(0)
    return LossOutput(per_row, metrics(terms, ratios) | dict(extra or {}))


def logistic(margin: Tensor) -> Tensor:
    """-log sigmoid(margin): linear, not saturated, far below 0; inf at -inf, 0 at +inf."""
    return -F.logsigmoid(margin)


def metrics(terms: Sequence[Term], ratios: Mapping[View, Tensor]) -> dict[str, Tensor]:
    """[B] each, without gradient; a margin of exactly 0 counts as wrong."""
    found: dict[str, Tensor] = {}
    for view, ratio in sorted(ratios.items(), key=lambda item: item[0].key):
        found[f"log_ratio/{view.key}"] = ratio.detach()
    for term in terms:
        margin = term.margin.detach()
        found[f"loss/{term.name}"] = logistic(margin)
        found[f"margin/{term.name}"] = margin
        found[f"accuracy/{term.name}"] = (margin > 0).to(margin.dtype)
    compared = [term.name for term in terms if term.compares]
    if compared:
        for name in ("margin", "accuracy"):
            found[name] = torch.stack([found[f"{name}/{term}"] for term in compared]).mean(0)
    return found
