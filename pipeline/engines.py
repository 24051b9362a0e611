"""The two ways to run shards: in this process, or on Ray Data. Both give the same parts."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from pipeline.placement import GroupPlacement, Placement, split
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
            device="cuda:0" if spec.device == "cuda" else "cpu",
            micro_batch=spec.micro_batch,
            time_limit_s=spec.time_limit_s,
            last=i == used[-1],
        )
        groups.append((group, spec))
    return groups


def run_local(work: Work, monitor: Monitor) -> None:
    """Run every shard in this process, one after the other; all stages fused.

    The device is that of the placement's first group: a placement of several devices needs Ray.
    """
    first = work.placement.groups[0].model_copy(update={"stages": "rest"})
    ((group, _),) = make_groups(work.chains, Placement(name="local", groups=[first]))
    worker = ShardWorker(
        work.assignment, group, lambda shard, g, c: monitor.live({f"{shard}-{g}": c})
    )
    try:
        for shard in work.shards:
            parcel = worker.first(shard)
            worker.process(parcel)
            monitor.done(shard, parcel.counters)
    finally:
        worker.close()


def run_on_ray(work: Work, monitor: Monitor) -> None:
    """Run every shard as one row of a Ray Data stream, through one actor pool per group.

    Raises whatever stopped the run; parts that are written stay.
    """
    import ray  # noqa: PLC0415  # so that commands which do not run anything start at once
    from ray.data import ActorPoolStrategy, DataContext  # noqa: PLC0415

    from workers.actor import ShardActor, start_board  # noqa: PLC0415

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    board = start_board()
    rows = [{"shard": shard} for shard in work.shards]
    # One block per row: what Ray Data retries, and what an actor takes, is exactly one shard.
    stream = ray.data.from_items(rows, override_num_blocks=len(rows))
    cpus = int(ray.cluster_resources().get("CPU", 1))
    for group, spec in make_groups(work.chains, work.placement):
        most = spec.max_actors or max(spec.min_actors, int(cpus / spec.num_cpus))
        most = max(spec.min_actors, min(most, len(rows)))
        stream = stream.map_batches(
            ShardActor,
            fn_constructor_args=(work.assignment, group, board),
            batch_size=1,
            batch_format="pyarrow",
            zero_copy_batch=True,
            num_cpus=spec.num_cpus,
            num_gpus=spec.num_gpus or None,
            # All actors from the start: a pool that grows on demand first lets one do all the work.
            compute=ActorPoolStrategy(
                min_size=most if spec.max_actors is None else spec.min_actors,
                max_size=most,
                max_tasks_in_flight_per_actor=2,
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


def start_ray(num_cpus: int | None = None) -> None:
    """Connect to the cluster that RAY_ADDRESS names (`ray job submit` sets it), or start one."""
    import ray  # noqa: PLC0415

    if ray.is_initialized():
        return
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    runtime_env = {"env_vars": THREADS}
    if os.environ.get("RAY_ADDRESS"):
        ray.init(runtime_env=runtime_env, log_to_driver=False, logging_level=logging.WARNING)
    else:
        ray.init(
            num_cpus=num_cpus,
            include_dashboard=False,
            runtime_env=runtime_env,
            log_to_driver=False,
            logging_level=logging.WARNING,
        )
    logging.getLogger("ray.data").setLevel(logging.WARNING)


def run_shards(work: Work, monitor: Monitor, *, local: bool) -> None:
    """Run the shards with the engine that was asked for."""
    if local:
        run_local(work, monitor)
        return
    import ray  # noqa: PLC0415

    started = not ray.is_initialized()
    start_ray()
    try:
        run_on_ray(work, monitor)
    finally:
        if started:
            ray.shutdown()
