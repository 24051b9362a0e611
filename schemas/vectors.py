"""Vectors of the input's images, which a recipe that pairs images writes before its parts.

One file a shard, `vectors/vectors-00000.parquet`, whole or absent, like the parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from schemas.files import Folder

VECTORS = "vectors"
"""Sub-folder of the run directory."""


@dataclass(frozen=True, slots=True)
class Vectored:
    """The image of a seed, as a vector."""

    seed_id: str
    """The seed's id."""
    image_id: str
    """Content id of the image: the same for all seeds about one image."""
    vector: tuple[float, ...]
    """Of unit length."""


@dataclass(frozen=True)
class VectorBlock:
    """The vectors of one shard, in the order of its manifest, without the seeds that dropped."""

    seed_ids: list[str]
    """N seed ids."""
    image_ids: list[str]
    """N image ids."""
    matrix: NDArray[np.float32]
    """[N, D] rows of unit length, up to the rounding of their storage (16 bit)."""


def vectors_name(shard: int) -> str:
    """Name of a shard's file in the run directory; the file exists once the shard is done."""
    return f"{VECTORS}/vectors-{shard:05d}.parquet"


def write_vectors(run: Folder, shard: int, rows: Sequence[Vectored]) -> None:
    """Write the vectors of a shard, in 16 bits: cosines keep three digits."""
    length = len(rows[0].vector) if rows else 0
    flat = np.array([row.vector for row in rows], np.float16).reshape(-1)
    table = pa.table(
        {
            "seed_id": pa.array([row.seed_id for row in rows], pa.string()),
            "image_id": pa.array([row.image_id for row in rows], pa.string()),
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(flat), max(length, 1))
            if rows
            else pa.array([], pa.list_(pa.float16(), 1)),
        }
    )
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd", use_dictionary=["seed_id", "image_id"])
    run.write(vectors_name(shard), sink.getvalue())


def read_vectors(run: Folder, num_shards: int) -> Iterator[VectorBlock]:
    """The vectors of every shard, in order; FileNotFoundError for one that was never written."""
    for shard in range(num_shards):
        with run.open(vectors_name(shard)) as source:
            table = pq.ParquetFile(source).read(use_threads=False)
        flat = table["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        yield VectorBlock(
            table["seed_id"].to_pylist(),
            table["image_id"].to_pylist(),
            flat.astype(np.float32).reshape(table.num_rows, table["vector"].type.list_size),
        )
