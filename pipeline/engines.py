"""The two ways to run shards: one worker process, or Ray Data. Both give the same parts."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from time import monotonic, sleep
from typing import Any, Protocol

from pipeline.errors import UsageError
from pipeline.placement import GroupPlacement, Placement, pool_sizes, split
from stages.base import Device
from workers.chain import Chain
from workers.counters import Counters
from workers.worker import Assignment, Group, ShardWorker

log = logging.getLogger(__name__)

THREADS = {"OPENCV_FOR_THREADS_NUM": "1", "OMP_NUM_THREADS": "1"}
"""One thread a process: the actors are the parallelism, and threads of their own only collide."""


class Monitor(Protocol):
    """What an engine tells of a run under way."""

    def live(self, counts: dict[str, Counters]) -> None:
        """Latest counts of shards in work, by "shard-group"."""

    def done(self, shard: int, counters: Counters) -> None:
        """A shard's part is written. May raise to stop the run."""


@dataclass(frozen=True)
class Work:
    """What to run."""

    assignment: Assignment
    """Run directory and attempt."""
    chains: tuple[Chain, ...]
    """One per recipe."""
    placement: Placement
    """Groups and limits."""
    shards: Sequence[int]
    """Shards still to do."""


def make_groups(
    chains: Sequence[Chain], placement: Placement
) -> list[tuple[Group, GroupPlacement]]:
    """The actor groups that have something to do, in order, with how they are placed."""
    parts = [split(chain, placement) for chain in chains]
    used = [i for i in range(len(placement.groups)) if any(part[i].links for part in parts)]
    groups = []
    for index, i in enumerate(used):
        spec = placement.groups[i]
        group = Group(
            index=index,
            chains=tuple(part[i] for part in parts),
            device=Device(spec.device, spec.dtype, spec.compile),
            micro_batch=spec.micro_batch,
            time_limit_s=spec.time_limit_s,
            last=i == used[-1],
        )
        groups.append((group, spec))
    return groups


def run_local(work: Work, monitor: Monitor) -> None:
    """Run every shard without Ray, in one worker process, one after the other; all stages fused.

    The worker is a process of its own, so that a row that kills or hangs it is found as it is on
    Ray: this process sees the death, starts another worker, and the flight log names the row.
    Micro-batch and time limit are those of the placement's first group. UsageError for a placement
    of several devices.
    """
    specs = [spec for _, spec in make_groups(work.chains, work.placement)]
    if len({spec.device for spec in specs}) > 1:
        raise UsageError(
            f"placement {work.placement.name} puts stages on several devices; without Ray all run "
            "on one: give another --placement, or leave --local out"
        )
    first = specs[0].model_copy(update={"stages": "rest"})
    ((group, _),) = make_groups(work.chains, Placement(name="local", groups=[first]))
    left = list(work.shards)
    silent_deaths = 0
    while left:
        here, there = _SPAWN.Pipe(duplex=False)
        worker = _SPAWN.Process(target=_work_here, args=(work.assignment, group, left, there))
        worker.start()
        there.close()
        try:
            heard = _listen(here, monitor, left)
        finally:
            here.close()
            worker.terminate()
            worker.join()
        silent_deaths = 0 if heard else silent_deaths + 1
        if left and silent_deaths == MAX_SILENT_DEATHS:
            raise RuntimeError(
                f"the worker process died {silent_deaths} times without finishing a row, last "
                f"with exit status {worker.exitcode}; see what it printed above"
            )


class WorkerError(RuntimeError):
    """What a worker process raised, in words."""


_SPAWN = multiprocessing.get_context("spawn")

MAX_SILENT_DEATHS = 6
"""A row is found after three deaths; twice as many without a row done have another cause."""


def _listen(pipe: Connection, monitor: Monitor, left: list[int]) -> bool:
    """Pass on what the worker says until it is through or dead; whether it said anything."""
    heard = False
    while True:
        try:
            message = pipe.recv()
        except EOFError:
            return heard
        heard = True
        match message:
            case ("live", key, counters):
                monitor.live({key: counters})
            case ("done", shard, counters):
                left.remove(shard)
                monitor.done(shard, counters)
            case ("failed", what, trace):
                log.debug("in the worker process:\n%s", trace)
                raise WorkerError(what)


def _work_here(
    assignment: Assignment, group: Group, shards: Sequence[int], pipe: Connection
) -> None:
    """The worker process of `run_local`."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        worker = ShardWorker(
            assignment, group, lambda shard, g, c: pipe.send(("live", f"{shard}-{g}", c))
        )
        for shard in shards:
            parcel = worker.first(shard)
            worker.process(parcel)
            pipe.send(("done", shard, parcel.counters))
        worker.close()
    except Exception as error:  # noqa: BLE001  # it is raised again in the driver
        # As text: not every error survives the way to another process.
        pipe.send(("failed", f"{type(error).__name__}: {error}", traceback.format_exc()))


def _end_with_parent() -> None:
    """A driver that was killed must not leave a worker behind."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def run_on_ray(work: Work, monitor: Monitor) -> None:
    """Run every shard as one row of a Ray Data stream, through one actor pool per group.

    Raises whatever stopped the run; parts that are written stay.
    """
    import ray  # noqa: PLC0415  # so that commands which do not run anything start at once
    from ray.data import ActorPoolStrategy, DataContext  # noqa: PLC0415

    from workers.actor import ShardActor, start_board  # noqa: PLC0415

    # Importing it set its own level; its progress is ours to show.
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    board = start_board()
    rows = [{"shard": shard} for shard in work.shards]
    # One block per row: what Ray Data retries, and what an actor takes, is exactly one shard.
    stream = ray.data.from_items(rows, override_num_blocks=len(rows))
    groups = make_groups(work.chains, work.placement)
    sizes = _pools(work.placement, [spec for _, spec in groups], len(rows))
    for (group, spec), (least, most) in zip(groups, sizes, strict=True):
        stream = stream.map_batches(
            ShardActor,
            fn_constructor_args=(work.assignment, group, board),
            batch_size=1,
            batch_format="pyarrow",
            zero_copy_batch=True,
            num_cpus=spec.num_cpus,
            num_gpus=spec.num_gpus or None,
            # All at once: a pool that grows on demand lets its first actor do all the work.
            compute=ActorPoolStrategy(
                min_size=least, max_size=most, max_tasks_in_flight_per_actor=2
            ),
        )
    try:
        with _Poll(board, monitor):
            for batch in stream.iter_batches(
                batch_size=1, batch_format="pyarrow", prefetch_batches=0
            ):
                for row in batch.to_pylist():
                    board.forget.remote(row["shard"])
                    monitor.done(row["shard"], Counters.from_json(json.loads(row["counters"])))
    finally:
        ray.kill(board)


NODES_S = 20.0
"""How long to wait for the resources of nodes that are just starting."""


def _pools(
    placement: Placement, specs: Sequence[GroupPlacement], num_shards: int
) -> list[tuple[int, int]]:
    """Least and most actors of every group."""
    import ray  # noqa: PLC0415

    if placement.autoscale:
        # What is there now says nothing; the pools' demand is what makes the cluster grow.
        return [
            (spec.min_actors, max(spec.min_actors, min(spec.max_actors or num_shards, num_shards)))
            for spec in specs
        ]
    patience = monotonic() + NODES_S
    while True:
        there = ray.cluster_resources()
        try:
            sizes = pool_sizes(specs, there.get("CPU", 0), there.get("GPU", 0), num_shards)
        except UsageError:
            # Nodes that have just started show their resources a moment later.
            if monotonic() > patience:
                raise
            sleep(0.5)
        else:
            return [(size, size) for size in sizes]


class _Poll:
    """Asks the board for live counts every second, in a thread, while the block runs."""

    def __init__(self, board: Any, monitor: Monitor) -> None:
        self._board, self._monitor = board, monitor
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="progress", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        import ray  # noqa: PLC0415

        while not self._stop.wait(1.0):
            try:
                counts = ray.get(self._board.get.remote(), timeout=5)
            except ray.exceptions.RayError:
                # The board or its node is gone; it is for the eye only, and comes back by itself.
                continue
            self._monitor.live({k: Counters.from_json(v) for k, v in counts.items()})


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

    What goes wrong in the block is raised all the same.
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


def run_shards(work: Work, monitor: Monitor, *, local: bool) -> None:
    """Run the shards with the engine that was asked for."""
    if local:
        run_local(work, monitor)
        return
    import ray  # noqa: PLC0415

    ours = not ray.is_initialized()
    if ours:
        start_ray()
    try:
        run_on_ray(work, monitor)
    finally:
        if ours:
            ray.shutdown()
