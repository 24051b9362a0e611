"""The engine on Ray Data: one row is one shard, one actor pool per group."""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from time import monotonic, sleep
from typing import Any

from pipeline.engine.placement import GroupPlacement, Placement, pool_sizes, runtime_env
from pipeline.engine.supervisor import NodesLostError, StreamSupervisor
from pipeline.engine.work import Monitor, RemainingShards, Work, make_groups, stage_names
from pipeline.errors import RunError, UsageError
from workers.counters import Counters
from workers.worker import Group

log = logging.getLogger(__name__)

THREADS = {"OPENCV_FOR_THREADS_NUM": "1", "OMP_NUM_THREADS": "1"}
"""One thread a process: the actors are the parallelism, and more threads would only compete."""

NODES_S = 20.0
"""How long to wait for the resources of nodes that are just starting."""

Pools = Sequence[tuple[Group, GroupPlacement, int]]
"""Every group with its placement and its least number of actors."""


def run_on_ray(work: Work, monitor: Monitor) -> None:
    """Run every shard as one row of a Ray Data stream, through one actor pool per group.

    If lost nodes stop the run because the pools no longer fit what is left, a stream with smaller
    pools takes over; shards that were in work are done again. Raises
    UsageError for a placement that does not fit, RunError for what stopped the workers or for a
    run in which nothing moves. Parts that are written stay.
    """
    remaining = RemainingShards(monitor, work.shards)
    groups = make_groups(work.chains, work.placement)
    for turn in count():
        # Another attempt for the notes of rows in flight: who died with the old stream is innocent.
        attempt = work.assignment.attempt + (f"-{turn}" if turn else "")
        rest = replace(
            work,
            assignment=replace(work.assignment, attempt=attempt),
            shards=tuple(remaining.shards),
        )
        patience_s = work.placement.stall_limit_s if turn else NODES_S
        try:
            sizes = _sizes(rest, [spec for _, spec in groups], patience_s)
        except UsageError as error:
            if turn == 0:
                raise
            message = f"nodes were lost: {error}; the same command resumes the run"
            raise RunError(message) from None
        pools = [(group, spec, size) for (group, spec), size in zip(groups, sizes, strict=True)]
        try:
            _stream(rest, pools, remaining)
        except NodesLostError as error:
            log.warning(
                "%s; continuing on the nodes that are left, %d shards to do",
                error,
                len(remaining.shards),
            )
        else:
            return


def _stream(work: Work, pools: Pools, remaining: RemainingShards) -> None:
    """Run the shards through pools of these sizes."""
    import ray  # noqa: PLC0415  # so that commands which do not run anything start at once
    from ray.data import ActorPoolStrategy, DataContext  # noqa: PLC0415

    from workers.actor import ShardActor, start_status_actor  # noqa: PLC0415

    # Importing it set its own level. What ends the run is raised, and said once, by us.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    status = start_status_actor()
    rows = [{"shard": shard} for shard in work.shards]
    # One block per row: what Ray Data retries, and what an actor takes, is exactly one shard.
    stream = ray.data.from_items(rows, override_num_blocks=len(rows))
    for group, spec, least in pools:
        stream = stream.map_batches(
            ShardActor,
            fn_constructor_args=(work.assignment, group, stage_names(group), status),
            batch_size=1,
            batch_format="pyarrow",
            zero_copy_batch=True,
            num_cpus=spec.num_cpus,
            num_gpus=spec.num_gpus or None,
            **({} if (own := runtime_env(spec)) is None else {"runtime_env": own}),
            # All at once: a pool that grows on demand lets its first actor do all the work.
            compute=ActorPoolStrategy(
                min_size=least,
                max_size=_most(work.placement, spec, least, len(rows)),
                max_tasks_in_flight_per_actor=2,
            ),
        )
    supervisor = StreamSupervisor(status, remaining, pools, work.placement)
    try:
        with supervisor:
            for batch in stream.iter_batches(
                batch_size=1, batch_format="pyarrow", prefetch_batches=0
            ):
                for row in batch.to_pylist():
                    status.remove_shard.remote(row["shard"])
                    remaining.done(row["shard"], Counters.from_json(json.loads(row["counters"])))
    except ray.exceptions.RayError as error:
        # What an actor found says more than what Ray made of it on the way.
        raise supervisor.failure() or error from None
    finally:
        ray.kill(status)


def _most(placement: Placement, spec: GroupPlacement, least: int, num_shards: int) -> int:
    """The most actors that a pool may grow to."""
    if not placement.autoscale:
        return least
    return max(least, min(spec.max_actors or num_shards, num_shards))


def _sizes(work: Work, specs: Sequence[GroupPlacement], patience_s: float) -> list[int]:
    """Actors of every pool at its start; waits for nodes that are just starting."""
    import ray  # noqa: PLC0415

    if work.placement.autoscale:
        # What is there now says nothing; the pools' demand is what makes the cluster grow.
        return [spec.min_actors for spec in specs]
    patience = monotonic() + patience_s
    while True:
        there = ray.cluster_resources()
        try:
            return pool_sizes(specs, there.get("CPU", 0), there.get("GPU", 0), len(work.shards))
        except UsageError:
            # Nodes that have just started show their resources a moment later.
            if monotonic() > patience:
                raise
            sleep(0.5)


def start_ray() -> None:
    """Connect to the cluster that RAY_ADDRESS names (`ray job submit` sets it), or start one.

    Without RAY_ADDRESS a cluster that `ray start` started on this machine is joined;
    RAY_ADDRESS=local starts one of its own in any case.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    # What Ray's C++ side says of restarts would bury the progress; set it to "info" to debug Ray.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    import ray  # noqa: PLC0415

    quiet: dict[str, Any] = {
        "runtime_env": {"env_vars": THREADS},
        "log_to_driver": False,
        "logging_level": logging.ERROR,
    }
    with _muted_stderr():
        if os.environ.get("RAY_ADDRESS", "local") != "local":
            ray.init(**quiet)
        else:
            ray.init(include_dashboard=False, **quiet)


@contextmanager
def _muted_stderr() -> Iterator[None]:
    """Silence what native code writes to standard error: Ray announces its log level there.

    Errors in the block are still raised.
    """
    sys.stderr.flush()
    saved = os.dup(2)
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
        os.close(null)
