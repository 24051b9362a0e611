"""The worker as a Ray Data actor, and the status actor through which it reports to the driver."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from time import monotonic, sleep
from typing import NoReturn

import pyarrow as pa
import ray
from ray.actor import ActorHandle

from workers.counters import Counters, CountersJson
from workers.failure import Failure, failure_of
from workers.worker import Assignment, Group, ShardState, ShardWorker

log = logging.getLogger(__name__)

SHARD_SCHEMA = pa.schema(
    [
        ("shard", pa.int64()),
        ("seed_ids", pa.list_(pa.string())),
        ("live", pa.list_(pa.large_binary())),
        ("done", pa.large_binary()),
        ("counters", pa.string()),
    ]
)
"""One row of Ray Data between two groups: a whole shard, so that nothing of it can be split off."""

HEARTBEAT_S = 5.0
"""Seconds between two heartbeats of an actor."""

MAX_STARTS = 6
"""Ray restarts an actor that dies while it starts, without end; after so many the run stops."""


@dataclass(frozen=True)
class StreamStatus:
    """What the driver reads from the status actor."""

    counts: Mapping[str, CountersJson]
    """Counts of every shard in work, by "shard-group"."""
    quiet_s: Mapping[int, float]
    """Per group, seconds since the last heartbeat of one of its actors, if there was one."""
    failure: Failure | None
    """Why the run cannot continue, if an actor reported that."""


class StatusActor:
    """Collects counts, heartbeats and the first failure of a stream's actors for the driver.

    Counts are for display only; the parts are the record. A shard actor ends itself when its
    status actor is gone, so that none outlives its stream with a shard in hand.
    """

    def __init__(self) -> None:
        """Nothing reported yet."""
        self._counts: dict[str, CountersJson] = {}
        self._heartbeats: dict[int, float] = {}
        self._starts: dict[str, int] = {}
        self._failure: Failure | None = None

    def opening(self, group: int, actor: str, stages: str) -> None:
        """An actor (by its id, which it keeps when Ray restarts it) begins to open its stages."""
        self.heartbeat(group)
        self._starts[actor] = self._starts.get(actor, 0) + 1
        if self._starts[actor] > MAX_STARTS:
            self.report_failure(
                Failure(
                    f"the process of an actor died {MAX_STARTS} times while it opened its stages "
                    f"({stages}), perhaps out of memory; see its log under /tmp/ray on its "
                    "node",
                    is_setup=False,
                )
            )

    def opened(self, actor: str) -> None:
        """All stages of an actor are open."""
        self._starts[actor] = 0

    def heartbeat(self, group: int) -> None:
        """An actor of the group is alive."""
        self._heartbeats[group] = monotonic()

    def report_failure(self, failure: Failure) -> None:
        """The run cannot continue; the first failure is kept, for others follow from it."""
        self._failure = self._failure or failure

    def report_counts(self, shard: int, group: int, counters: CountersJson) -> None:
        """Replace the counts of a shard in a group."""
        self._counts[f"{shard}-{group}"] = counters

    def remove_shard(self, shard: int) -> None:
        """Remove a shard that is done."""
        for key in [k for k in self._counts if k.startswith(f"{shard}-")]:
            del self._counts[key]

    def status(self) -> StreamStatus:
        """All that was reported."""
        now = monotonic()
        quiet_s = {group: now - last for group, last in self._heartbeats.items()}
        return StreamStatus(self._counts, quiet_s, self._failure)


class ShardActor:
    """Callable for `Dataset.map_batches`: one row in, one row out, `batch_size=1`."""

    def __init__(
        self,
        assignment: Assignment,
        group: Group,
        stages: str,
        status: ActorHandle[StatusActor],
    ) -> None:
        """Open the group's stages; `stages` names them for messages."""
        self._group = group
        self._status = status
        actor = ray.get_runtime_context().get_actor_id()
        ray.get(status.opening.remote(group.index, actor, stages))
        threading.Thread(target=self._send_heartbeats, name="heartbeat", daemon=True).start()
        try:
            self._worker = ShardWorker(assignment, group, self._report_counts)
        except Exception as error:  # noqa: BLE001  # it is raised again in the driver
            self._fail(error)
        status.opened.remote(actor)

    def _report_counts(self, shard: int, group: int, counters: Counters) -> None:
        self._status.report_counts.remote(shard, group, counters.to_json())

    def _fail(self, error: Exception) -> NoReturn:
        """Tell the driver why the run cannot continue, and wait for it to end this process.

        Not raised: Ray would start the actor anew, try the shard again, and print the traceback.
        """
        log.error("this actor cannot continue", exc_info=error)
        ray.get(self._status.report_failure.remote(failure_of(error)))
        while True:
            sleep(HEARTBEAT_S)

    def _send_heartbeats(self) -> None:
        while True:
            sleep(HEARTBEAT_S)
            try:
                ray.get(self._status.heartbeat.remote(self._group.index))
            except ray.exceptions.ActorDiedError:
                # The stream is over. What is in work here is being done elsewhere, or not wanted.
                os._exit(0)
            except ray.exceptions.RayError:
                # Out of reach for a moment.
                continue

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Take one shard through the group."""
        try:
            return self._take(batch)
        except Exception as error:  # noqa: BLE001  # it is raised again in the driver
            self._fail(error)

    def _take(self, batch: pa.Table) -> pa.Table:
        (row,) = batch.to_pylist()
        chains = self._group.chains
        if self._group.index == 0:
            state = self._worker.first(row["shard"])
        else:
            state = ShardState.from_row(row, chains)
        self._worker.process(state)
        if self._group.last:
            # The part is written; the driver only needs to hear of it.
            out = {"shard": state.shard, "counters": json.dumps(state.counters.to_json())}
            return pa.Table.from_pylist([out])
        return pa.Table.from_pylist([state.to_row(chains)], schema=SHARD_SCHEMA)


def start_status_actor() -> ActorHandle[StatusActor]:
    """A `StatusActor` on the driver's node, so that both die together; it takes no CPU."""
    here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
        ray.get_runtime_context().get_node_id(), soft=False
    )
    return ray.remote(num_cpus=0, scheduling_strategy=here)(StatusActor).remote()
