"""Running a recipe, from top to bottom: check, prepare, pair images, run what is missing, finish.

Resumable: whatever ends this process, the same command continues. `run.json` and the manifest say
what to do, the parts say what is done, and everything else is made again from the parts.
"""

from __future__ import annotations

import logging

from pipeline.engine.choice import run_shards
from pipeline.engine.counts import TROUBLE, used
from pipeline.engine.progress import Progress
from pipeline.engine.work import Work
from pipeline.prepare import pair_input_images, prepare
from pipeline.request import Exit, Request, check
from pipeline.run_folder import Audit, Lease, RunFolder
from workers.chain import Chain
from workers.worker import Assignment

__all__ = ["Exit", "Request", "run"]

log = logging.getLogger(__name__)

ROUNDS = 3
"""How often one command makes parts again that turn out damaged."""


def run(request: Request) -> Exit:
    """Do what is left of the run: COMPLETE or INCOMPLETE; raises UsageError or what failed."""
    folder, chains = check(request)
    with Lease(folder, request.attempt):
        run_folder = prepare(request, folder)
        pair_input_images(request, run_folder)
        if request.retry_errors:
            run_folder.remove_with_drops(TROUBLE)
        audit = run_folder.audit(repair=True)
        if audit.complete and run_folder.is_finished():
            # Somebody wants to be sure: read every page of every part, images included.
            if not run_folder.remove_damaged():
                log.info("%s is complete already", run_folder.url)
                return Exit.COMPLETE
            audit = run_folder.audit(repair=True)
        run_folder.write_progress(audit, complete=False)
        for _ in range(ROUNDS):
            if not audit.complete:
                _run_missing(request, run_folder, chains, audit)
                audit = run_folder.audit(repair=True)
            if audit.complete and run_folder.finish(audit, request.attempt):
                _log_usage(audit)
                return Exit.COMPLETE
            audit = run_folder.audit(repair=True)
        _give_up(run_folder, audit)
        return Exit.INCOMPLETE


def _run_missing(
    request: Request, run_folder: RunFolder, chains: tuple[Chain, ...], before: Audit
) -> None:
    """Run the shards that have no good part."""
    info, missing = run_folder.info, sorted(before.missing)
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
        assignment = Assignment(run_folder.folder, request.attempt, info.part_metadata())
        work = Work(assignment, chains, request.placement, missing)
        run_shards(work, progress, local=request.local)


def _log_usage(audit: Audit) -> None:
    """What the backends used, a line a stage."""
    for line in used(audit.counters):
        log.info("%s", line)


def _give_up(run_folder: RunFolder, audit: Audit) -> None:
    """Say what is missing after the last round."""
    log.error(
        "%d seeds in %d shards are not accounted for; run the same command again",
        audit.num_missing,
        len(audit.missing),
    )
    run_folder.write_progress(audit, complete=False)
