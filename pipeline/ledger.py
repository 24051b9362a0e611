"""The run directory: what was asked for (`run.json`), which shards are done, and the audit."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import UsageError
from schemas.files import Folder
from schemas.manifest import read_seeds
from schemas.outcomes import PAIR
from schemas.shards import part_name, read_part
from workers.counters import Counters

log = logging.getLogger(__name__)

RUN_FILE = "run.json"
PROGRESS_FILE = "progress.json"

DAMAGED = (OSError, pa.ArrowException)
"""What reading a damaged Parquet file raises."""


@dataclass(frozen=True)
class Identity:
    """What a run is. A rerun must agree in all of it."""

    recipe: str
    """Name of the recipe."""
    recipe_digest: str
    """`RecipeBook.digest`."""
    input: str
    """Path or URL, as given; for people, not compared."""
    input_digest: str
    """Fingerprint of the input's content."""
    seed: int
    """The run's seed."""
    shard_size: int
    """Seeds in one shard."""
    limit: int | None
    """`--limit`."""
    schema_version: int
    """`SCHEMA_VERSION` of the code."""


@dataclass(frozen=True)
class RunInfo:
    """`run.json`: written once, after the manifest is whole."""

    identity: Identity
    """What the run is."""
    num_seeds: int
    """Distinct input rows."""
    num_shards: int
    """Parts that will be there."""
    num_duplicates: int
    """Input rows left out because an equal row came before."""
    recipes: list[str]
    """Names of the chains that every seed goes through."""
    settings: Mapping[str, list[dict[str, Any]]]
    """Per chain, every stage with its settings, defaults included."""
    placement: Mapping[str, Any]
    """The placement of the first attempt."""
    versions: Mapping[str, str]
    """Versions of this code and of the libraries that touch bytes."""


def read_run_info(run: Folder) -> RunInfo:
    """The run's `run.json`; UsageError if the folder is no run directory."""
    if not run.exists(RUN_FILE):
        raise UsageError(f"{run.url} is not a run directory: it has no {RUN_FILE}")
    try:
        value = run.read_json(RUN_FILE)
    except ValueError as error:
        raise UsageError(
            f"{run.url}/{RUN_FILE} is damaged: {error}; use another --output"
        ) from None
    try:
        return RunInfo(**{**value, "identity": Identity(**value["identity"])})
    except (KeyError, TypeError) as error:
        raise UsageError(
            f"{run.url}/{RUN_FILE} was written by another version of this project: {error}"
        ) from None


def write_run_info(run: Folder, info: RunInfo) -> None:
    """Write `run.json`."""
    run.write_json(RUN_FILE, asdict(info))


def check_same_run(run: Folder, wanted: Identity) -> RunInfo:
    """The run directory's info; UsageError if it belongs to another recipe, input or seed."""
    info = read_run_info(run)
    old, new = asdict(info.identity), asdict(wanted)
    differ = [key for key in new if key != "input" and old[key] != new[key]]
    if differ:
        what = ", ".join(f"{key} {old[key]} (now {new[key]})" for key in differ)
        raise UsageError(
            f"{run.url} holds a run of another {differ[0].removesuffix('_digest')}: {what}; give "
            "the same arguments to resume, or another --output"
        )
    return info


def done_shards(run: Folder, info: RunInfo, *, repair: bool = False) -> set[int]:
    """Shards whose part is there, readable as far as its footer tells, and of this run.

    With `repair`, which only the holder of the lease may ask for, damaged parts are removed.
    """
    done = set()
    present = set(run.names("parts"))
    for shard in range(info.num_shards):
        name = part_name(shard)
        if name.rpartition("/")[2] not in present:
            continue
        try:
            with run.open(name) as source:
                metadata = pq.read_metadata(source).metadata or {}
        except DAMAGED as error:
            log.warning("%s is damaged and has to be made again: %s", name, error)
            if repair:
                run.delete(name)
            continue
        digest = metadata.get(b"nearmiss_recipe_digest", b"").decode()
        if digest != info.identity.recipe_digest:
            raise UsageError(
                f"{run.join(name)} was made by recipe {digest or 'of unknown digest'}, this run "
                f"has {info.identity.recipe_digest}; remove the part or use another --output"
            )
        done.add(shard)
    return done


def part_facts(info: RunInfo) -> dict[str, str]:
    """Metadata that every part carries."""
    return {
        "nearmiss_recipe_digest": info.identity.recipe_digest,
        "nearmiss_input_digest": info.identity.input_digest,
    }


@dataclass
class Audit:
    """What the parts account for."""

    num_seeds: int = 0
    """Seeds with an outcome in every recipe."""
    num_pairs: int = 0
    """Accepted pairs."""
    num_drops: int = 0
    """Records dropped; several for a seed that fans out."""
    pairs: Counter[str] = field(default_factory=Counter)
    """Accepted pairs by recipe."""
    reasons: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Drops by (recipe, reason)."""
    missing: dict[int, list[str]] = field(default_factory=dict)
    """Per shard, the seeds that some recipe has no outcome for."""
    counters: Counters = field(default_factory=Counters)
    """What the stages counted, summed over the parts."""

    @property
    def complete(self) -> bool:
        """Whether every seed is accounted for."""
        return not self.missing


def audit(
    run: Folder, info: RunInfo, shards: Iterable[int] | None = None, *, repair: bool = False
) -> Audit:
    """Hold the parts against the manifest, shard by shard.

    With `repair`, parts that are damaged or do not account for their seeds are removed.
    """
    result = Audit()
    done = done_shards(run, info, repair=repair)
    for shard in range(info.num_shards) if shards is None else shards:
        expected = [ref.seed_id for ref in read_seeds(run, shard)]
        if shard not in done:
            result.missing[shard] = expected
            continue
        try:
            rows, counters = _read_outcomes(run, shard)
        except DAMAGED as error:
            log.warning("%s is damaged and has to be made again: %s", part_name(shard), error)
            lost = expected
        else:
            lost = _unaccounted(rows, expected, info.recipes)
        if lost:
            result.missing[shard] = lost
            if repair:
                run.delete(part_name(shard))
            continue
        result.num_seeds += len(expected)
        result.counters.add(counters)
        for row in rows:
            if row["status"] == PAIR:
                result.num_pairs += 1
                result.pairs[row["recipe"]] += 1
            else:
                result.num_drops += 1
                result.reasons[row["recipe"], row["reason"]] += 1
    return result


def _unaccounted(rows: list[dict[str, Any]], expected: list[str], recipes: list[str]) -> list[str]:
    """Seeds without an outcome in some recipe; all of them if a pair stands there twice."""
    pair_ids = [row["pair_id"] for row in rows if row["status"] == PAIR]
    if len(set(pair_ids)) != len(pair_ids):
        return expected
    seen = {(row["seed_id"], row["recipe"]) for row in rows}
    return [seed for seed in expected if any((seed, recipe) not in seen for recipe in recipes)]


def _read_outcomes(run: Folder, shard: int) -> tuple[list[dict[str, Any]], Counters]:
    columns = ["seed_id", "recipe", "status", "reason", "pair_id"]
    rows = [row for table in read_part(run, shard, columns) for row in table.to_pylist()]
    with run.open(part_name(shard)) as source:
        metadata = pq.read_metadata(source).metadata
    return rows, Counters.from_json(json.loads(metadata[b"nearmiss_counters"]))


def errors_in(run: Folder, info: RunInfo, reasons: frozenset[str]) -> list[int]:
    """Shards with a drop of one of these reasons."""
    found = []
    for shard in sorted(done_shards(run, info)):
        rows, _ = _read_outcomes(run, shard)
        if any(row["reason"] in reasons for row in rows):
            found.append(shard)
    return found
