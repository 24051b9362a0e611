"""Histograms of the scores as the coordinates of small SVG drawings."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.report.facts import Limit, RunFacts, limit_sign
from pipeline.report.survey import NUM_BINS, Histogram, Survey

WIDTH, HEIGHT = 360, 168
"""Size of the drawing, in its own units; shown at about that size in CSS pixels."""
_LEFT, _RIGHT, _TOP, _BOTTOM = 8.0, 352.0, 34.0, 146.0


@dataclass(frozen=True, slots=True)
class Column:
    """A bar of the histogram: the pairs below, the drops on top of them."""

    x: float
    width: float
    pairs_y: float
    pairs_height: float
    drops_y: float
    drops_height: float
    title: str
    """What it stands for, in words."""


@dataclass(frozen=True, slots=True)
class Line:
    """A limit."""

    x: float
    label: str
    label_y: float
    anchor: str
    """SVG `text-anchor`, so that the label stays inside."""


@dataclass(frozen=True, slots=True)
class Chart:
    """One histogram, ready to draw."""

    score: str
    columns: list[Column]
    lines: list[Line]
    low: str
    high: str
    peak: str
    """Rows in the highest bar."""
    summary: str
    """The chart in a sentence, for those who cannot see it."""


def charts(found: Survey, facts: RunFacts) -> dict[str, list[Chart]]:
    """The histograms of every recipe, by recipe name."""
    by_recipe: dict[str, list[Chart]] = {}
    for (recipe, score), histogram in found.histograms.items():
        by_recipe.setdefault(recipe, []).append(
            _chart(score, histogram, _limits(facts, recipe, score))
        )
    return by_recipe


def _limits(facts: RunFacts, recipe: str, score: str) -> dict[Limit, list[str]]:
    """The different limits of a score, each with the contrast kinds it is for."""
    found: dict[Limit, list[str]] = {}
    for kind, limits in sorted(facts.thresholds.get(recipe, {}).items()):
        if score in limits:
            side, value = limits[score]
            found.setdefault((side, value), []).append(kind)
    return found


def _chart(score: str, histogram: Histogram, limits: dict[Limit, list[str]]) -> Chart:
    peak = max(map(sum, zip(histogram.pairs, histogram.drops, strict=True)), default=0)
    step = (_RIGHT - _LEFT) / NUM_BINS
    columns = []
    for i, (pairs, drops) in enumerate(zip(histogram.pairs, histogram.drops, strict=True)):
        if not pairs + drops:
            continue
        low = histogram.low + (histogram.high - histogram.low) * i / NUM_BINS
        high = histogram.low + (histogram.high - histogram.low) * (i + 1) / NUM_BINS
        pairs_height = _height(pairs, peak)
        drops_height = _height(drops, peak)
        columns.append(
            Column(
                round(_LEFT + i * step + 0.5, 2),
                round(step - 1, 2),
                round(_BOTTOM - pairs_height, 2),
                pairs_height,
                round(_BOTTOM - pairs_height - drops_height, 2),
                drops_height,
                f"{low:.3g} to {high:.3g}: {pairs:,} pairs, {drops:,} drops",
            )
        )
    drawn = _lines(histogram, limits)
    return Chart(
        score,
        columns,
        drawn,
        f"{histogram.low:.3g}",
        f"{histogram.high:.3g}",
        f"{peak:,}",
        f"Histogram of {score}: {sum(histogram.pairs):,} pairs and {sum(histogram.drops):,} drops"
        f" between {histogram.low:.3g} and {histogram.high:.3g}"
        + "".join(f"; limit {line.label}" for line in drawn),
    )


def _height(count: int, peak: int) -> float:
    # A bar of a single row among thousands must still be seen.
    return round(max((_BOTTOM - _TOP) * count / peak, 1.5), 2) if count else 0.0


def _lines(histogram: Histogram, limits: dict[Limit, list[str]]) -> list[Line]:
    several = len(limits) > 1
    drawn = []
    for i, (limit, kinds) in enumerate(sorted(limits.items(), key=lambda item: item[0][1])):
        share = histogram.position(limit[1]) / 100
        label = (
            f"{', '.join(kinds)} {limit_sign(limit)}" if several else f"keep {limit_sign(limit)}"
        )
        drawn.append(
            Line(
                round(_LEFT + share * (_RIGHT - _LEFT), 2),
                label,
                # Neighbouring labels take turns in two rows.
                11.0 if i % 2 == 0 else 24.0,
                "start" if share < 0.25 else "end" if share > 0.75 else "middle",
            )
        )
    return drawn
