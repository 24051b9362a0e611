"""The worker as a Ray Data actor, and the board on which actors and driver meet."""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from time import monotonic, sleep
from typing import Any, NoReturn

import pyarrow as pa
import ray

from workers.counters import Counters
from workers.failure import Failure, failure_of
from workers.worker import Assignment, Group, Parcel, ShardWorker

log = logging.getLogger(__name__)

PARCEL_SCHEMA = pa.schema(
    [
        ("shard", pa.int64()),
        ("seed_ids", pa.list_(pa.string())),
        ("live", pa.list_(pa.large_binary())),
        ("done", pa.large_binary()),
        ("counters", pa.string()),
    ]
)
"""One row of Ray Data between two groups: a whole shard, so that nothing of it can be split off."""

BEAT_S = 5.0
"""Seconds between two signs of life of an actor."""

MAX_STARTS = 6
"""Ray starts an actor that dies in its first steps again and again; so often is enough."""


@dataclass(frozen=True)
class Seen:
    """What the driver finds on the board."""

    counts: Mapping[str, Mapping[str, Any]]
    """Counts of every shard in work, by "shard-group"."""
    quiet_s: Mapping[int, float]
    """Per group, seconds since one of its actors last gave a sign of life, if ever one did."""
    failure: Failure | None
    """Why the run cannot go on, if an actor found that."""


class Board:
    """Where the actors of a stream leave what the driver should know.

    Counts are for the eye only: what is true stands in the parts. An actor ends itself when its
    board is gone, so that none outlives its stream with a shard in hand.
    """

    def __init__(self) -> None:
        """Empty board."""
        self._counts: dict[str, Mapping[str, Any]] = {}
        self._beats: dict[int, float] = {}
        self._starts: dict[str, int] = {}
        self._failure: Failure | None = None

    def start(self, group: int, actor: str, stages: str) -> None:
        """An actor (by its id, which it keeps when Ray restarts it) begins to open its stages."""
        self.beat(group)
        self._starts[actor] = self._starts.get(actor, 0) + 1
        if self._starts[actor] > MAX_STARTS:
            self.fail(
                Failure(
                    f"the process of an actor died {MAX_STARTS} times while it opened its stages "
                    f"({stages}), perhaps for want of memory; see its log under /tmp/ray on its "
                    "node",
                    is_setup=False,
                )
            )

    def opened(self, actor: str) -> None:
        """All stages of an actor are open."""
        self._starts[actor] = 0

    def beat(self, group: int) -> None:
        """An actor of the group is alive."""
        self._beats[group] = monotonic()

    def fail(self, failure: Failure) -> None:
        """The run cannot go on; the first word stands, for others follow from it."""
        self._failure = self._failure or failure

    def put(self, shard: int, group: int, counters: Mapping[str, Any]) -> None:
        """Replace the counts of a shard in a group."""
        self._counts[f"{shard}-{group}"] = dict(counters)

    def forget(self, shard: int) -> None:
        """Remove a shard that is done."""
        for key in [k for k in self._counts if k.startswith(f"{shard}-")]:
            del self._counts[key]

    def look(self) -> Seen:
        """All that is on the board."""
        now = monotonic()
        quiet_s = {group: now - beat for group, beat in self._beats.items()}
        return Seen(self._counts, quiet_s, self._failure)


class ShardActor:
    """Callable for `Dataset.map_batches`: one row in, one row out, `batch_size=1`."""

    def __init__(self, assignment: Assignment, group: Group, stages: str, board: Any) -> None:
        """Open the group's stages; `board` is the handle of a `Board` actor."""
        self._group = group
        self._board = board
        actor = ray.get_runtime_context().get_actor_id()
        ray.get(board.start.remote(group.index, actor, stages))
        threading.Thread(target=self._beat, name="beat", daemon=True).start()
        try:
            self._worker = ShardWorker(assignment, group, self._put)
        except Exception as error:  # noqa: BLE001  # it is raised again in the driver
            self._fail(error)
        board.opened.remote(actor)

    def _put(self, shard: int, group: int, counters: Counters) -> None:
        self._board.put.remote(shard, group, counters.to_json())

    def _fail(self, error: Exception) -> NoReturn:
        """Tell the driver why the run cannot go on, and wait for it to end this process.

        Not raised: Ray would start the actor anew, try the shard again, and print the traceback.
        """
        log.error("this actor cannot go on", exc_info=error)
        ray.get(self._board.fail.remote(failure_of(error)))
        while True:
            sleep(BEAT_S)

    def _beat(self) -> None:
        while True:
            sleep(BEAT_S)
            try:
                ray.get(self._board.beat.remote(self._group.index))
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
            parcel = self._worker.first(row["shard"])
        else:
            parcel = Parcel.from_row(row, chains)
        self._worker.process(parcel)
        if self._group.last:
            # The part is written; the driver only needs to hear of it.
            out = {"shard": parcel.shard, "counters": json.dumps(parcel.counters.to_json())}
            return pa.Table.from_pylist([out])
        return pa.Table.from_pylist([parcel.to_row(chains)], schema=PARCEL_SCHEMA)


def start_board() -> Any:
    """A `Board` actor that takes no CPU from the stages, on this node: it lives with the driver."""
    here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
        ray.get_runtime_context().get_node_id(), soft=False
    )
    return ray.remote(num_cpus=0, scheduling_strategy=here)(Board).remote()
