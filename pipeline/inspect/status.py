"""`status`: the state of a run, as text or JSON. Changes nothing."""

from __future__ import annotations

import io
import json
import shutil
from collections import Counter

from rich.console import Console

from pipeline.engine.counts import stage_table, used
from pipeline.run_folder import Audit, RunFolder, RunInfo


def status(run_dir: str, *, as_json: bool) -> tuple[str, bool]:
    """The state of a run as text or JSON, and whether it is complete."""
    run = RunFolder.open(run_dir)
    audit = run.audit()
    complete = audit.complete and run.is_finished()
    write = _as_json if as_json else _as_text
    return write(run.info, audit, complete), complete


def _as_json(info: RunInfo, audit: Audit, complete: bool) -> str:  # noqa: FBT001
    value = {
        "complete": complete,
        "recipe": info.identity.recipe,
        "recipe_digest": info.identity.recipe_digest,
        "num_seeds": info.num_seeds,
        "num_seeds_done": audit.num_seeds,
        "num_duplicates": info.num_duplicates,
        "num_shards": info.num_shards,
        "num_shards_done": info.num_shards - len(audit.missing),
        "num_pairs": audit.num_pairs,
        "num_drops": audit.num_drops,
        "pairs": dict(audit.pairs),
        "drops": _by_recipe(audit),
        "stages": audit.counters.to_json()["stages"],
    }
    return json.dumps(value, indent=1)


def _by_recipe(audit: Audit) -> dict[str, dict[str, int]]:
    drops: dict[str, dict[str, int]] = {}
    for (recipe, reason), count in sorted(audit.reasons.items()):
        drops.setdefault(recipe, {})[reason] = count
    return drops


def _as_text(info: RunInfo, audit: Audit, complete: bool) -> str:  # noqa: FBT001
    done = info.num_shards - len(audit.missing)
    lines = [
        f"{info.identity.recipe}: {'complete' if complete else 'incomplete'}, "
        f"{audit.num_seeds:,} of {info.num_seeds:,} seeds, "
        f"{done:,} of {info.num_shards:,} shards, "
        f"{audit.num_pairs:,} pairs, {audit.num_drops:,} drops"
        + (f", {info.num_duplicates:,} duplicate rows left out" if info.num_duplicates else "")
    ]
    for recipe in info.recipes:
        lines.append(f"  {recipe}: {audit.pairs[recipe]:,} pairs")
        reasons = Counter({r: n for (name, r), n in audit.reasons.items() if name == recipe})
        lines += [f"    {count:>8,}  {reason}" for reason, count in reasons.most_common()]
    if audit.counters.stages:
        lines += ["", _table(audit), *used(audit.counters)]
    return "\n".join(lines)


def _table(audit: Audit) -> str:
    sink = io.StringIO()
    width = shutil.get_terminal_size((120, 40)).columns
    Console(file=sink, width=width, force_terminal=False).print(stage_table(audit.counters))
    return "\n".join(line.rstrip() for line in sink.getvalue().strip().splitlines())
