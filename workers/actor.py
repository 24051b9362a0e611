"""The worker as a Ray Data actor, and the actor that gathers live counts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import ray

from workers.counters import Counters
from workers.worker import Assignment, Group, Parcel, ShardWorker

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


class ProgressBoard:
    """Latest counts of every shard in work. For the eye only: what is true stands in the parts."""

    def __init__(self) -> None:
        """Empty board."""
        self._counts: dict[str, dict[str, Any]] = {}

    def put(self, shard: int, group: int, counters: Mapping[str, Any]) -> None:
        """Replace the counts of a shard in a group."""
        self._counts[f"{shard}-{group}"] = dict(counters)

    def get(self) -> dict[str, dict[str, Any]]:
        """All counts, by "shard-group"."""
        return self._counts

    def forget(self, shard: int) -> None:
        """Remove a shard that is done."""
        for key in [k for k in self._counts if k.startswith(f"{shard}-")]:
            del self._counts[key]


class ShardActor:
    """Callable for `Dataset.map_batches`: one row in, one row out, `batch_size=1`."""

    def __init__(self, assignment: Assignment, group: Group, board: Any) -> None:
        """Open the group's stages; `board` is the handle of a `ProgressBoard` actor."""
        self._group = group
        self._board = board
        self._worker = ShardWorker(assignment, group, self._put)

    def _put(self, shard: int, group: int, counters: Counters) -> None:
        self._board.put.remote(shard, group, counters.to_json())

    def __call__(self, batch: pa.Table) -> pa.Table:
        """Take one shard through the group."""
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
    """A `ProgressBoard` actor that takes no CPU from the stages."""
    return ray.remote(num_cpus=0, max_restarts=-1)(ProgressBoard).remote()
