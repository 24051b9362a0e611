"""Counts of stages for a person: tables, and one line for what each stage's backends used."""

from __future__ import annotations

from collections.abc import Mapping

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from schemas.records import Reason
from workers.counters import Counters, StageCount

TROUBLE = frozenset(
    {
        Reason.MODEL_ERROR,
        Reason.OUT_OF_MEMORY,
        Reason.CRASHED,
        Reason.TIMED_OUT,
        Reason.REQUEST_FAILED,
    }
)
"""Reasons that count towards a stage's error share."""


def stage_table(counters: Counters) -> Table:
    """One row a stage."""
    table = _table("recipe", "stage")
    previous = None
    for (recipe, stage), count in counters.stages.items():
        if previous not in (None, recipe):
            table.add_section()
        table.add_row(recipe if recipe != previous else "", stage, *_cells(count))
        previous = recipe
    return table


def recipe_table(counters: Counters) -> Table:
    """One row a recipe."""
    table = _table("recipe")
    for recipe, count in by_recipe(counters).items():
        table.add_row(recipe, *_cells(count))
    return table


def by_recipe(counters: Counters) -> dict[str, StageCount]:
    """Per recipe what entered its first stage and left its last; drops, seconds and use of all."""
    recipes: dict[str, StageCount] = {}
    for (name, _), count in counters.stages.items():
        recipe = recipes.setdefault(name, StageCount())
        num_in = recipe.num_in or count.num_in
        recipe.add(count)
        recipe.num_in, recipe.num_out = num_in, count.num_out
    return recipes


def used(counters: Counters) -> list[str]:
    """A line per stage whose backends are metered, and one for what all of them cost together.

    "planner: 1,204 requests, 300 cached, 2.1 M tokens, 3.20 USD"
    """
    several = len({recipe for recipe, _ in counters.stages}) > 1
    lines = [
        f"{f'{recipe} {stage}' if several else stage}: {_amounts(count.usage)}"
        for (recipe, stage), count in counters.stages.items()
        if count.usage
    ]
    if len(lines) > 1 and (cost := cost_usd(counters)):
        lines.append(f"together: {cost:,.2f} USD")
    return lines


def cost_usd(counters: Counters) -> float:
    """What all stages cost."""
    return sum(count.usage.get("cost_usd", 0.0) for count in counters.stages.values())


def _amounts(usage: Mapping[str, float]) -> str:
    tokens = usage.get("prompt_tokens", 0.0) + usage.get("completion_tokens", 0.0)
    words = [f"{usage[name]:,.0f} {name}" for name in ("requests", "cached") if name in usage]
    if tokens:
        words.append(f"{_short(tokens)} tokens")
    if "cost_usd" in usage:
        words.append(f"{usage['cost_usd']:,.2f} USD")
    known = {"requests", "cached", "prompt_tokens", "completion_tokens", "cost_usd"}
    words += [f"{value:,g} {name}" for name, value in usage.items() if name not in known]
    return ", ".join(words)


def _short(number: float) -> str:
    for least, size, sign in ((1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k")):
        if number >= least:
            return f"{number / size:,.1f} {sign}"
    return f"{number:,.0f}"


def _table(*first: str) -> Table:
    """An empty table; its last column takes the width that is left, and is cut off there."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for name in first:
        table.add_column(name, no_wrap=True)
    for name in ("in", "out", "dropped", "ms each", "busy"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("reasons")
    return table


def _cells(count: StageCount) -> list[str | Text]:
    each = 1000 * count.busy_s / count.num_in if count.num_in else 0.0
    known_s = count.busy_s + count.idle_s
    reasons = Text(no_wrap=True, overflow="ellipsis")
    for reason, number in count.reasons.most_common(3):
        style = "bold red" if reason in TROUBLE else ""
        reasons.append(", " if reasons else "").append(f"{reason} {number:,}", style)
    return [
        f"{count.num_in:,}",
        f"{count.num_out:,}",
        f"{count.num_dropped:,}",
        f"{each:.1f}",
        f"{count.busy_s / known_s:.0%}" if known_s else "",
        reasons,
    ]
