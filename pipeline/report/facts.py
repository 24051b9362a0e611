"""What the report must be told because the parts do not hold it. Knows no files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

Limit: TypeAlias = tuple[Literal["min", "max"], float]
"""The side that a limit bounds, and its value; a score equal to the limit passes."""

Thresholds: TypeAlias = Mapping[str, Mapping[str, Mapping[str, Limit]]]
"""Limits by recipe name, contrast kind ("object", ...) and score name."""


@dataclass(frozen=True)
class RunFacts:
    """The few facts about a run that its parts do not hold."""

    recipe: str
    """Name of the recipe that was run; of the mix, where it mixes several."""
    recipe_digest: str
    """Content id of the validated recipe."""
    seed: int
    """The run's `--seed`."""
    num_seeds: int
    """Input rows that the parts must account for, each duplicate counted once."""
    thresholds: Thresholds = field(default_factory=dict)
    """Limits that the run applied to its scores."""
    input: str = ""
    """Where the rows came from, as given on the command line."""
    num_duplicates: int = 0
    """Input rows left out because an identical row came before them."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Software by name, for the foot of the header."""
    date: str = ""
    """When the run started, as text; nothing here reads a clock."""

    def limits(self, recipe: str, kind: str | None) -> Mapping[str, Limit]:
        """Limits by score name for one recipe and contrast kind; none for an unknown kind."""
        return self.thresholds.get(recipe, {}).get(kind or "", {})


def slack(limit: Limit, value: float) -> float:
    """How far a score is on the good side of its limit; negative beyond it."""
    side, bound = limit
    return value - bound if side == "min" else bound - value


def limit_sign(limit: Limit) -> str:
    """The limit in short: "\u2265 0.5"."""
    return f"{'≥' if limit[0] == 'min' else '≤'} {limit[1]:.5g}"
