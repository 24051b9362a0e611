"""The run directory: what was asked for (`run.json`), which shards are done, and the audit."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping
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

PARTS = "parts"
RUN_FILE = "run.json"
PROGRESS_FILE = "progress.json"

DAMAGED = (OSError, pa.ArrowException, ValueError, KeyError)
"""What reading a damaged part raises; a store that is out of reach, too: see `is_damaged`."""

NAMED_MISSING = 3
"""How many of the seeds that an audit misses it names."""


@dataclass(frozen=True)
class Identity:
    """What a run is. A rerun must agree in all of it."""

    recipe: str
    """Name of the recipe."""
    recipe_digest: str
    """`RecipeBook.digest`."""
    input: str
    """Path or URL, as given."""
    image_root: str | None
    """Folder of relative image paths, where it was given."""
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
    files: Mapping[str, str] = field(default_factory=dict)
    """Content ids of small files that decide rows, by the setting that names them."""


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


PLACES = ("input", "image_root")
"""Fields of `Identity` that may change: the same content at another place."""


def check_same_run(run: Folder, wanted: Identity, files: Mapping[str, str]) -> RunInfo:
    """The run directory's info; UsageError if it belongs to another recipe, input or seed.

    Also if one of the `files` that decide rows has other content; what was seen on one side alone
    is let pass.
    """
    info = read_run_info(run)
    old, new = asdict(info.identity), asdict(wanted)
    differ = [key for key in new if key not in PLACES and old[key] != new[key]]
    if differ:
        what = ", ".join(f"{key} {old[key]} (now {new[key]})" for key in differ)
        raise UsageError(
            f"{run.url} holds a run of another {differ[0].removesuffix('_digest')}: {what}; give "
            "the same arguments to resume, or another --output"
        )
    for setting, digest in files.items():
        before = info.files.get(setting, digest)
        if before != digest:
            raise UsageError(
                f"{run.url} was begun with other content of the file that {setting} names (content "
                f"id {before}, now {digest}): put that file back to resume, or give another "
                "--output"
            )
    return info


def part_facts(info: RunInfo) -> dict[str, str]:
    """Metadata that every part carries."""
    return {
        "nearmiss_recipe_digest": info.identity.recipe_digest,
        "nearmiss_input_digest": info.identity.input_digest,
    }


@dataclass(frozen=True)
class _Part:
    """What an audit reads of a part."""

    rows: list[dict[str, Any]]
    """Ids, recipe, status and reason of every outcome."""
    facts: dict[str, str]
    """The metadata that `part_facts` gave."""
    counters: Counters
    """What the stages counted."""


def _read(run: Folder, shard: int) -> _Part | None:
    """What an audit reads of a part; None if its content is damaged."""
    columns = ["seed_id", "recipe", "status", "reason", "pair_id"]
    try:
        rows = [row for table in read_part(run, shard, columns) for row in table.to_pylist()]
        with run.open(part_name(shard)) as source:
            metadata = pq.read_metadata(source).metadata
        facts = {key.decode(): value.decode() for key, value in metadata.items()}
        counters = Counters.from_json(json.loads(facts["nearmiss_counters"]))
    except DAMAGED:
        if not is_damaged(run, shard):
            raise
        return None
    return _Part(rows, facts, counters)


def is_damaged(run: Folder, shard: int) -> bool:
    """Whether a part that could not be read has bad content.

    Raises what the storage raises: a store that is out of reach is no reason to remove a part.
    """
    data = run.read(part_name(shard))
    try:
        file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
        file.read(use_threads=False)  # as in `read_seeds`
        facts = {k.decode(): v.decode() for k, v in file.metadata.metadata.items()}
        Counters.from_json(json.loads(facts["nearmiss_counters"]))
    except DAMAGED as error:
        log.warning("%s is damaged and has to be made again: %s", part_name(shard), error)
        return True
    return False


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
    """Shards to make (again), each with the first few seeds that some recipe has no outcome for."""
    num_missing: int = 0
    """Seeds that some recipe has no outcome for."""
    counters: Counters = field(default_factory=Counters)
    """What the stages counted, summed over the parts."""

    @property
    def complete(self) -> bool:
        """Whether every seed is accounted for."""
        return not self.missing


def audit(run: Folder, info: RunInfo, *, repair: bool = False) -> Audit:
    """Hold the parts against the manifest, shard by shard.

    With `repair`, which only the holder of the lease may ask for, parts that are damaged or do not
    account for exactly their seeds are removed. UsageError if a part is of another recipe.
    """
    result = Audit()
    present = set(run.names(PARTS))
    for shard in range(info.num_shards):
        if part_name(shard).rpartition("/")[2] not in present:
            first = shard * info.identity.shard_size
            result.missing[shard] = []
            result.num_missing += min(info.identity.shard_size, info.num_seeds - first)
            continue
        expected = [ref.seed_id for ref in read_seeds(run, shard)]
        part = _read(run, shard)
        lost = expected if part is None else _unaccounted(part, expected, info, run, shard)
        if part is None or lost:
            result.missing[shard] = lost[:NAMED_MISSING]
            result.num_missing += len(lost)
            if repair:
                run.delete(part_name(shard))
            continue
        result.num_seeds += len(expected)
        result.counters.add(part.counters)
        for row in part.rows:
            if row["status"] == PAIR:
                result.num_pairs += 1
                result.pairs[row["recipe"]] += 1
            else:
                result.num_drops += 1
                result.reasons[row["recipe"], row["reason"]] += 1
    return result


def _unaccounted(
    part: _Part, expected: list[str], info: RunInfo, run: Folder, shard: int
) -> list[str]:
    """Seeds without an outcome in some recipe; all of them if the part is not of this shard."""
    digest = part.facts.get("nearmiss_recipe_digest", "none")
    if digest != info.identity.recipe_digest:
        raise UsageError(
            f"{run.join(part_name(shard))} was made by recipe {digest}, this run has "
            f"{info.identity.recipe_digest}; remove the part or use another --output"
        )
    pair_ids = [row["pair_id"] for row in part.rows if row["status"] == PAIR]
    seen = {(row["seed_id"], row["recipe"]) for row in part.rows}
    if (
        len(set(pair_ids)) != len(pair_ids)
        or {seed for seed, _ in seen} - set(expected)
        or part.facts.get("nearmiss_input_digest") != info.identity.input_digest
    ):
        return expected
    return [seed for seed in expected if any((seed, name) not in seen for name in info.recipes)]


def shards_with(run: Folder, info: RunInfo, reasons: frozenset[str]) -> list[int]:
    """Shards with a drop of one of these reasons."""
    present = set(run.names(PARTS))
    found = []
    for shard in range(info.num_shards):
        if part_name(shard).rpartition("/")[2] in present:
            part = _read(run, shard)
            if part is not None and any(row["reason"] in reasons for row in part.rows):
                found.append(shard)
    return found


def write_progress(run: Folder, info: RunInfo, result: Audit, *, complete: bool) -> None:
    """Write `progress.json`: counts per stage, and whether all that follows from them is there."""
    run.write_json(
        PROGRESS_FILE,
        {
            "complete": complete,
            "num_seeds": info.num_seeds,
            "num_seeds_done": result.num_seeds,
            "num_pairs": result.num_pairs,
            "num_drops": result.num_drops,
            "stages": result.counters.to_json()["stages"],
        },
    )


def is_finished(run: Folder) -> bool:
    """Whether data, card and report were made from all parts, and the data are still there."""
    if not run.exists(PROGRESS_FILE):
        return False
    progress = run.read_json(PROGRESS_FILE)
    return bool(progress["complete"] and (run.names("data") or not progress["num_pairs"]))
