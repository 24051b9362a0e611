"""Running a recipe: manifest, shards, audit, data, card, report. In that order, and resumable.

Whatever ends this process, the same command again goes on where it was: the manifest and
`run.json` say what there is to do, the parts say what is done, and everything after the parts is
made again from them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from importlib.metadata import version
from typing import Any
from uuid import uuid4

from pipeline.card import write_card
from pipeline.engines import Work, run_shards
from pipeline.errors import UsageError
from pipeline.lease import Lease
from pipeline.ledger import (
    PROGRESS_FILE,
    RUN_FILE,
    Audit,
    Identity,
    RunInfo,
    audit,
    check_same_run,
    done_shards,
    errors_in,
    part_facts,
    write_run_info,
)
from pipeline.placement import Placement, split, unknown_stages
from pipeline.progress import TROUBLE, Progress
from pipeline.recipes.build import RecipeBook
from pipeline.report import write_report
from pipeline.sources import Source, write_manifest
from pipeline.status import report_facts
from pipeline.version import code_version
from schemas.files import Folder
from schemas.outcomes import Origin
from schemas.records import SCHEMA_VERSION, Step
from schemas.shards import part_name, read_pairs, write_data
from workers.chain import Chain
from workers.guard import STRIKES
from workers.worker import Assignment

log = logging.getLogger(__name__)

ROUNDS = 3
"""How often shards are submitted in one command, where parts turn out damaged or missing."""


class Exit(IntEnum):
    """Exit status of a command."""

    COMPLETE = 0
    FAILED = 1
    USAGE = 2
    INCOMPLETE = 3


@dataclass(frozen=True)
class Request:
    """What `run` was asked for, checked."""

    book: RecipeBook
    """Chains and shard size."""
    placement: Placement
    """Which stages share actors."""
    source: Source
    """The input."""
    output: str
    """Run directory: a path or URL."""
    seed: int = 0
    """The run's seed."""
    limit: int | None = None
    """Only the first rows of the input."""
    local: bool = False
    """Without Ray, in one worker process."""
    retry_errors: bool = False
    """Do shards again in which rows raised, crashed or timed out."""
    attempt: str = field(default_factory=lambda: uuid4().hex)
    """Identity of this driver process."""


def run(request: Request) -> Exit:
    """Do what is left of the run: COMPLETE or INCOMPLETE; raises UsageError or what failed."""
    chains = make_chains(request.book, request.seed)
    for chain in chains:
        split(chain, request.placement)
    for stage in unknown_stages(request.book, request.placement):
        log.warning(
            "placement %s names stage %s, which the recipe does not have",
            request.placement.name,
            stage,
        )
    folder = Folder.at(request.output)
    _check_writable(folder)
    with Lease(folder, request.attempt):
        info = _prepare(request, folder)
        if request.retry_errors:
            for shard in errors_in(folder, info, TROUBLE):
                folder.delete(part_name(shard))
            # Rows that struck out get a new trial, too.
            folder.delete_folder(STRIKES)
        result = _run_to_the_end(request, folder, info, chains)
        if not result.complete:
            missing = sum(len(seeds) for seeds in result.missing.values())
            log.error(
                "%d seeds in %d shards are not accounted for; run the same command again",
                missing,
                len(result.missing),
            )
            _write_progress(folder, info, result, complete=False)
            return Exit.INCOMPLETE
        finish(folder, info, result)
    return Exit.COMPLETE


def make_chains(book: RecipeBook, seed: int) -> tuple[Chain, ...]:
    """The chains of a recipe book, each with what its rows will say of where they came from."""
    return tuple(
        Chain(
            Origin(
                recipe=recipe.name,
                recipe_digest=recipe.digest,
                run_seed=seed,
                code_version=code_version(),
                schema_version=SCHEMA_VERSION,
                steps=tuple(Step(link.name, s) for link, s in recipe.steps()),
            ),
            recipe.links,
        )
        for recipe in book.recipes
    )


def _check_writable(folder: Folder) -> None:
    try:
        folder.write("write-test", b"")
        folder.delete("write-test")
    except OSError as error:
        raise UsageError(f"--output {folder.url}: cannot be written: {error}") from None


def _prepare(request: Request, folder: Folder) -> RunInfo:
    """The run's info: read and compared where there is one, else made with the manifest."""
    identity = Identity(
        recipe=request.book.name,
        recipe_digest=request.book.digest,
        input=request.source.input.url,
        input_digest=request.source.digest(),
        seed=request.seed,
        shard_size=request.book.shard_size,
        limit=request.limit,
        schema_version=SCHEMA_VERSION,
    )
    if folder.exists(RUN_FILE):
        return check_same_run(folder, identity)
    if folder.names("parts"):
        raise UsageError(
            f"{folder.url} holds parts but no {RUN_FILE}: it is not a run directory of this "
            "version; give another --output"
        )
    log.info("scanning %s", request.source.input.url)
    manifest = write_manifest(
        request.source, folder, request.seed, request.book.shard_size, request.limit
    )
    info = RunInfo(
        identity=identity,
        num_seeds=manifest.num_seeds,
        num_shards=manifest.num_shards,
        num_duplicates=manifest.num_duplicates,
        recipes=[recipe.name for recipe in request.book.recipes],
        settings={recipe.name: recipe.settings for recipe in request.book.recipes},
        placement=request.placement.model_dump(),
        versions=_versions(),
    )
    write_run_info(folder, info)
    return info


def _run_to_the_end(
    request: Request, folder: Folder, info: RunInfo, chains: tuple[Chain, ...]
) -> Audit:
    """Run the missing shards, audit, and run again those that the audit found wanting."""
    assignment = Assignment(folder, request.attempt, part_facts(info))
    done = done_shards(folder, info, repair=True)
    missing = [shard for shard in range(info.num_shards) if shard not in done]
    if done and missing:
        log.info("%d of %d shards are done already", len(done), info.num_shards)
    result = Audit()
    for _ in range(ROUNDS):
        if missing:
            before = audit(folder, info, sorted(done), repair=True)
            missing = sorted({*missing, *before.missing})
            progress = Progress(
                info.num_seeds,
                info.num_shards,
                before.counters,
                len(done),
                request.placement,
                [(chain.origin.recipe, link.name) for chain in chains for link in chain.links],
            )
            log.info(
                "%d seeds in %d shards to do, %s",
                info.num_seeds - before.num_seeds,
                len(missing),
                "in one worker process" if request.local else "on Ray",
            )
            with progress:
                work = Work(assignment, chains, request.placement, missing)
                run_shards(work, progress, local=request.local)
        result = audit(folder, info, repair=True)
        if result.complete:
            break
        missing = sorted(result.missing)
        done = set(range(info.num_shards)) - set(missing)
    return result


def finish(folder: Folder, info: RunInfo, result: Audit) -> None:
    """Make all that follows from the parts: data, card, report. Safe to repeat."""
    files = write_data(folder, range(info.num_shards))
    licenses = sorted(
        {
            license_
            for table in read_pairs(folder)
            for license_ in table["license"].to_pylist()
            if license_
        }
    )
    write_card(folder, info, result, licenses)
    write_report(folder.url, report_facts(info))
    _write_progress(folder, info, result, complete=True)
    folder.delete_folder(STRIKES)
    log.info(
        "%d pairs from %d seeds in %d files: %s",
        result.num_pairs,
        info.num_seeds,
        len(files),
        folder.url,
    )


def _write_progress(folder: Folder, info: RunInfo, result: Audit, *, complete: bool) -> None:
    folder.write_json(
        PROGRESS_FILE,
        {
            "complete": complete,
            "num_seeds": info.num_seeds,
            "num_pairs": result.num_pairs,
            "num_drops": result.num_drops,
            "stages": result.counters.to_json()["stages"],
        },
    )


def _versions() -> Mapping[str, Any]:
    """Versions of what touches a row's bytes."""
    names = ("numpy", "pillow", "opencv-contrib-python-headless", "pyarrow", "ray", "inflect")
    return {"nearmiss": code_version(), **{name: version(name) for name in names}}
