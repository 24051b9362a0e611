"""What the whole run says in numbers. Reads no image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from pipeline.report.facts import RunFacts
from pipeline.report.parts import Line
from schemas.outcomes import PAIR

NUM_BINS = 36
"""Bars of a histogram."""


@dataclass(slots=True)
class Histogram:
    """How often each value of a score occurred in one recipe."""

    low: float
    """Left edge of the first bar; no value and no limit lies left of it."""
    high: float
    """Right edge of the last bar."""
    pairs: list[int] = field(default_factory=lambda: [0] * NUM_BINS)
    """Pairs in each bar."""
    drops: list[int] = field(default_factory=lambda: [0] * NUM_BINS)
    """Drops in each bar."""

    def position(self, value: float) -> float:
        """Where a value lies between the edges, in percent."""
        share = (value - self.low) / (self.high - self.low)
        return round(100 * min(max(share, 0.0), 1.0), 2)

    def add(self, value: float, status: str) -> None:
        """Count one value; values at the right edge belong to the last bar."""
        place = int((value - self.low) / (self.high - self.low) * NUM_BINS)
        bars = self.pairs if status == PAIR else self.drops
        bars[min(max(place, 0), NUM_BINS - 1)] += 1


@dataclass(slots=True)
class Survey:
    """The counts of a run."""

    num_seeds: int = 0
    """Distinct seeds in the parts."""
    num_seeds_with_pair: int = 0
    """Seeds that gave at least one pair."""
    statuses: Counter[str] = field(default_factory=Counter)
    """Rows by status."""
    recipes: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Rows by (recipe, status)."""
    reasons: Counter[str] = field(default_factory=Counter)
    """Drops by reason."""
    histograms: dict[tuple[str, str], Histogram] = field(default_factory=dict)
    """By (recipe, score name), in order."""

    @property
    def recipe_names(self) -> list[str]:
        """Recipes that made rows, in order."""
        return sorted({recipe for recipe, _ in self.recipes})


def survey(lines: Iterable[Line], facts: RunFacts) -> Survey:
    """Counts, and histograms that have their range but no bars yet; `choose` fills them."""
    found = Survey()
    ranges: dict[tuple[str, str], tuple[float, float]] = {}
    shard, seeds, with_pair = -1, set[str](), set[str]()
    for line in lines:
        # A seed never crosses shards, so distinct seeds can be counted shard by shard.
        if line.at.shard != shard:
            found.num_seeds += len(seeds)
            found.num_seeds_with_pair += len(with_pair)
            shard, seeds, with_pair = line.at.shard, set(), set()
        seeds.add(line.seed_id)
        if line.status == PAIR:
            with_pair.add(line.seed_id)
        else:
            found.reasons[line.reason] += 1
        found.statuses[line.status] += 1
        found.recipes[line.recipe, line.status] += 1
        for name, value in line.scores.items():
            low, high = ranges.get((line.recipe, name), (value, value))
            ranges[line.recipe, name] = (min(low, value), max(high, value))
    found.num_seeds += len(seeds)
    found.num_seeds_with_pair += len(with_pair)
    for recipe, name in sorted(ranges):
        values = [*ranges[recipe, name], *_bounds(facts, recipe, name)]
        found.histograms[recipe, name] = Histogram(*_edges(min(values), max(values)))
    return found


def _bounds(facts: RunFacts, recipe: str, name: str) -> list[float]:
    kinds = facts.thresholds.get(recipe, {}).values()
    return [limits[name][1] for limits in kinds if name in limits]


def _edges(low: float, high: float) -> tuple[float, float]:
    """A range with room at both ends, so that a limit at an extreme is not drawn on the frame."""
    room = (high - low) * 0.02 or max(abs(high) * 0.05, 0.05)
    # Most scores are shares of one: an axis that ends at 1.02 would look wrong.
    return (
        0.0 if 0 <= low < room else low - room,
        1.0 if 1 - room < high <= 1 and low < 1 else high + room,
    )
