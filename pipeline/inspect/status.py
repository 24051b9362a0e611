"""What a run directory says of itself: `status`, and the facts that the report needs."""

from __future__ import annotations

import io
import json
import shutil
from collections import Counter

from rich.console import Console

from pipeline.engine.counts import stage_table, used
from pipeline.report import RunFacts, Thresholds
from pipeline.run_folder.ledger import Audit, RunInfo, audit, is_finished, read_run_info
from schemas.files import Folder


def status(run_dir: str, *, as_json: bool) -> tuple[str, bool]:
    """The state of a run as text or JSON, and whether it is complete. Changes nothing."""
    folder = Folder.at(run_dir)
    info = read_run_info(folder)
    result = audit(folder, info)
    complete = result.complete and is_finished(folder)
    text = _as_json(info, result, complete) if as_json else _as_text(info, result, complete)
    return text, complete


def _as_json(info: RunInfo, result: Audit, complete: bool) -> str:  # noqa: FBT001
    value = {
        "complete": complete,
        "recipe": info.identity.recipe,
        "recipe_digest": info.identity.recipe_digest,
        "num_seeds": info.num_seeds,
        "num_seeds_done": result.num_seeds,
        "num_duplicates": info.num_duplicates,
        "num_shards": info.num_shards,
        "num_shards_done": info.num_shards - len(result.missing),
        "num_pairs": result.num_pairs,
        "num_drops": result.num_drops,
        "pairs": dict(result.pairs),
        "drops": _by_recipe(result),
        "stages": result.counters.to_json()["stages"],
    }
    return json.dumps(value, indent=1)


def _by_recipe(result: Audit) -> dict[str, dict[str, int]]:
    drops: dict[str, dict[str, int]] = {}
    for (recipe, reason), count in sorted(result.reasons.items()):
        drops.setdefault(recipe, {})[reason] = count
    return drops


def _as_text(info: RunInfo, result: Audit, complete: bool) -> str:  # noqa: FBT001
    done = info.num_shards - len(result.missing)
    lines = [
        f"{info.identity.recipe}: {'complete' if complete else 'incomplete'}, "
        f"{result.num_seeds:,} of {info.num_seeds:,} seeds, "
        f"{done:,} of {info.num_shards:,} shards, "
        f"{result.num_pairs:,} pairs, {result.num_drops:,} drops"
        + (f", {info.num_duplicates:,} duplicate rows left out" if info.num_duplicates else "")
    ]
    for recipe in info.recipes:
        lines.append(f"  {recipe}: {result.pairs[recipe]:,} pairs")
        reasons = Counter({r: n for (name, r), n in result.reasons.items() if name == recipe})
        lines += [f"    {count:>8,}  {reason}" for reason, count in reasons.most_common()]
    if result.counters.stages:
        lines += ["", _table(result), *used(result.counters)]
    return "\n".join(lines)


def _table(result: Audit) -> str:
    sink = io.StringIO()
    width = shutil.get_terminal_size((120, 40)).columns
    Console(file=sink, width=width, force_terminal=False).print(stage_table(result.counters))
    return "\n".join(line.rstrip() for line in sink.getvalue().strip().splitlines())


def report_facts(info: RunInfo, date: str = "") -> RunFacts:
    """What the report must be told of a run."""
    return RunFacts(
        recipe=info.identity.recipe,
        recipe_digest=info.identity.recipe_digest,
        seed=info.identity.seed,
        num_seeds=info.num_seeds,
        thresholds=thresholds(info),
        input=info.identity.input,
        num_duplicates=info.num_duplicates,
        versions=info.versions,
        date=date,
    )


def thresholds(info: RunInfo) -> Thresholds:
    """The limits on scores that a run's recipes set: by recipe, contrast kind and score."""
    found: dict[str, dict[str, dict[str, tuple[str, float]]]] = {}
    for recipe, stages in info.settings.items():
        for stage in stages:
            for kind, limits in (stage.get("limits") or {}).items():
                for name, value in limits.items():
                    side, _, score = name.partition("_")
                    if value is not None:
                        found.setdefault(recipe, {}).setdefault(kind, {})[score] = (side, value)
    return found  # type: ignore[return-value]  # the sides are "min" and "max" by their names
