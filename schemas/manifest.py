"""The manifest of a run: its input rows without pixels, one Parquet file per shard.

The driver writes it once, before any work; each worker reads the one file of its shard. So a
shard's rows never depend on reading the input again in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from schemas.arrow import from_table, to_table
from schemas.files import Folder
from schemas.records import SeedRef

SEEDS = "seeds"
"""Sub-folder of the run directory."""


def seeds_path(shard: int) -> str:
    """Name of a shard's manifest file in the run directory."""
    return f"{SEEDS}/seeds-{shard:05d}.parquet"


def write_seeds(folder: Folder, shard: int, seeds: Sequence[SeedRef]) -> None:
    """Write the rows of a shard: whole or not at all."""
    sink = pa.BufferOutputStream()
    pq.write_table(to_table(seeds, SeedRef), sink, compression="zstd")
    folder.write(seeds_path(shard), sink.getvalue().to_pybytes())


def read_seeds(folder: Folder, shard: int) -> list[SeedRef]:
    """The rows of a shard, in input order; FileNotFoundError if it was never written."""
    # From a native file, in this thread: a pool thread that frees Python's bytes while the
    # interpreter shuts down aborts the process, with its work done and the wrong exit status.
    with folder.open(seeds_path(shard)) as source:
        table = pq.ParquetFile(source).read(use_threads=False)
    return from_table(table, SeedRef)


def delete_seeds(folder: Folder) -> None:
    """Remove every file of the manifest."""
    for name in folder.names(SEEDS):
        folder.delete(f"{SEEDS}/{name}")
