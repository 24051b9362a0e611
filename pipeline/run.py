"""Running a recipe: manifest, shards, audit, data, card, report. In that order, and resumable.

Whatever ends this process, the same command again goes on where it was: the manifest and
`run.json` say what there is to do, the parts say what is done, and everything after the parts is
made again from them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import IntEnum
from importlib.metadata import version
from typing import Any
from uuid import uuid4

from pipeline.engine.choice import run_shards
from pipeline.engine.counts import TROUBLE, used
from pipeline.engine.placement import Placement, split, unknown_stages
from pipeline.engine.progress import Progress
from pipeline.engine.work import Work
from pipeline.errors import UsageError
from pipeline.inspect.status import report_facts
from pipeline.pairing import PAIRING_FILE, PairingRequest, pair_images
from pipeline.recipes.build import RecipeBook
from pipeline.recipes.contents import content_digests
from pipeline.report import write_report
from pipeline.run_folder.card import write_card
from pipeline.run_folder.lease import Lease
from pipeline.run_folder.ledger import (
    PARTS,
    RUN_FILE,
    Audit,
    Identity,
    RunInfo,
    audit,
    check_same_run,
    is_damaged,
    is_finished,
    part_facts,
    shards_with,
    write_progress,
    write_run_info,
)
from pipeline.sources import Source, write_manifest
from pipeline.version import code_version
from schemas.files import Folder
from schemas.outcomes import Origin
from schemas.records import SCHEMA_VERSION, Step
from schemas.shards import PartError, part_name, read_pairs, write_data
from stages.read.loader import Loader
from workers.chain import Chain
from workers.guard import STRIKES
from workers.worker import Assignment

log = logging.getLogger(__name__)

ROUNDS = 3
"""How often one command makes parts again that turn out damaged."""


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
        _pair_images(request, folder, info)
        if request.retry_errors:
            for shard in shards_with(folder, info, TROUBLE):
                folder.delete(part_name(shard))
            # Rows that struck out get a new trial, too.
            folder.delete_folder(STRIKES)
        result = audit(folder, info, repair=True)
        if result.complete and is_finished(folder):
            # Somebody wants to be sure: read every page of every part, images included.
            damaged = [shard for shard in range(info.num_shards) if is_damaged(folder, shard)]
            if not damaged:
                log.info("%s is complete already", folder.url)
                return Exit.COMPLETE
            for shard in damaged:
                folder.delete(part_name(shard))
            result = audit(folder, info, repair=True)
        write_progress(folder, info, result, complete=False)
        for _ in range(ROUNDS):
            if not result.complete:
                _run_missing(request, folder, info, chains, result)
                result = audit(folder, info, repair=True)
            if result.complete and finish(folder, info, result, request.attempt):
                return Exit.COMPLETE
            result = audit(folder, info, repair=True)
        log.error(
            "%d seeds in %d shards are not accounted for; run the same command again",
            result.num_missing,
            len(result.missing),
        )
        write_progress(folder, info, result, complete=False)
    return Exit.INCOMPLETE


def _pair_images(request: Request, folder: Folder, info: RunInfo) -> None:
    """The pass before the run of a recipe that pairs the images of its input."""
    if request.book.pairing is None:
        return
    loader = request.book.recipes[0].links[0].stage
    assert isinstance(loader, Loader)
    pair_images(
        PairingRequest(
            run=folder,
            num_shards=info.num_shards,
            pairing=request.book.pairing,
            loader=loader,
            run_seed=request.seed,
            placement=request.placement,
            attempt=request.attempt,
            local=request.local,
        )
    )


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
    except (OSError, ValueError) as error:
        raise UsageError(f"--output {folder.url}: cannot be written: {error}") from None


def _prepare(request: Request, folder: Folder) -> RunInfo:
    """The run's info: read and compared where there is one, else made with the manifest."""
    identity = Identity(
        recipe=request.book.name,
        recipe_digest=request.book.digest,
        input=request.source.input.url,
        image_root=request.source.image_root,
        input_digest=request.source.digest(),
        seed=request.seed,
        shard_size=request.book.shard_size,
        limit=request.limit,
        schema_version=SCHEMA_VERSION,
    )
    files = content_digests(request.book)
    if folder.exists(RUN_FILE):
        info = check_same_run(folder, identity, files)
        if info.identity == identity:
            return info
        log.info("the input is at another place than before")
        # Until the new manifest is whole no place is right, so an interrupted scan is repeated.
        write_run_info(folder, replace(info, identity=replace(info.identity, input="")))
    elif folder.names(PARTS):
        raise UsageError(
            f"{folder.url} holds parts but no {RUN_FILE}: it is not a run directory of this "
            "version; give another --output"
        )
    # The partners of images stand in the manifest, which is about to be written anew.
    folder.delete(PAIRING_FILE)
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
        files=files,
    )
    write_run_info(folder, info)
    return info


def _run_missing(
    request: Request, folder: Folder, info: RunInfo, chains: tuple[Chain, ...], before: Audit
) -> None:
    """Run the shards that have no good part."""
    missing = sorted(before.missing)
    log.info(
        "%d seeds in %d of %d shards to do, %s",
        before.num_missing,
        len(missing),
        info.num_shards,
        "in one worker process" if request.local else "on Ray",
    )
    with Progress(
        info.num_seeds,
        info.num_shards,
        before.counters,
        info.num_shards - len(missing),
        request.placement,
        [(chain.origin.recipe, link.name) for chain in chains for link in chain.links],
    ) as progress:
        assignment = Assignment(folder, request.attempt, part_facts(info))
        work = Work(assignment, chains, request.placement, missing)
        run_shards(work, progress, local=request.local)


def finish(folder: Folder, info: RunInfo, result: Audit, attempt: str) -> bool:
    """Make all that follows from the parts: data, card, report. Safe to repeat.

    False if a part turned out to be damaged in what the audit does not read, the images; it is
    removed then.
    """
    try:
        files = write_data(folder, range(info.num_shards), attempt)
    except PartError as error:
        if not is_damaged(folder, error.shard):
            raise
        folder.delete(part_name(error.shard))
        return False
    tables = read_pairs(folder, ["license"])
    licenses = {name for table in tables for name in table["license"].to_pylist() if name}
    write_card(folder, info, result, sorted(licenses))
    write_report(folder.url, report_facts(info))
    folder.delete_folder(STRIKES)
    write_progress(folder, info, result, complete=True)
    log.info(
        "%d pairs from %d seeds in %d files: %s",
        result.num_pairs,
        info.num_seeds,
        len(files),
        folder.url,
    )
    for line in used(result.counters):
        log.info("%s", line)
    return True


def _versions() -> Mapping[str, Any]:
    """Versions of what touches a row's bytes."""
    names = ("numpy", "pillow", "opencv-contrib-python-headless", "pyarrow", "ray", "inflect")
    return {"nearmiss": code_version(), **{name: version(name) for name in names}}
