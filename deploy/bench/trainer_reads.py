"""What the trainer reads for a shuffled epoch, what a step spends on the order, and the index.

Requests and bytes are counted by an S3 server on loopback, so they are exact; times are of one run.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from measure import commit_is_clean, header, scratch

from fakes.pairs import a_pair
from fakes.s3_store import Store, s3_store
from schemas.arrow import to_table
from schemas.records import Image, Pair
from schemas.shards import DATA_SCHEMA
from trainer.data.ahead import ReadAhead
from trainer.data.order import Order
from trainer.data.rows import Rows
from trainer.settings import Settings

log = logging.getLogger(__name__)

GROUP_ROWS = 64
FILE_ROWS = 2 * GROUP_ROWS
BATCH = 64
WINDOW = int(Settings.model_fields["shuffle_window"].default)


def write_run(folder: Path, files: int, image_bytes: int) -> Path:
    """A run of one file a shard of 128 pairs, whose images are noise of one size."""
    random = np.random.default_rng(0)
    pairs = [
        replace(
            a_pair(number),
            chosen_image=Image(random.bytes(image_bytes), f"{number}.jpg"),
            rejected_image=Image(random.bytes(image_bytes), None),
        )
        for number in range(FILE_ROWS)
    ]
    table = to_table(pairs, Pair).cast(DATA_SCHEMA)
    for file in range(files):
        path = folder / f"data/{file // 1000:03d}/train-{file:05d}-of-{files:05d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        ids = pa.array([f"{file:06d}-{number:025d}" for number in range(FILE_ROWS)])
        of_file = table.set_column(0, DATA_SCHEMA.field("pair_id"), ids)
        pq.write_table(of_file, path, GROUP_ROWS, compression="zstd", use_dictionary=False)
    return folder


def epoch(rows: Rows, order: Order) -> int:
    """Read an epoch's rows of one process; returns the bytes of its images."""
    ahead = ReadAhead(rows, order, range(order.steps_per_epoch))
    try:
        return sum(
            len(row.chosen_image.bytes) + len(row.rejected_image.bytes)
            for micro, found in ahead
            if micro.counted and isinstance(found, tuple)
            for row in found
        )
    finally:
        ahead.close()


def reads(store: Store, folder: Path, files: int, image_bytes: int) -> Iterator[str]:
    """Bytes and requests of an epoch on 1 and 4 processes, and those of the index."""
    url = store.upload(write_run(folder / "run", files, image_bytes), "run")
    rows = Rows.open([url], cache=folder / "cache")
    index = store.asked(path=".parquet")
    yield (
        f"{len(rows):,} rows of {2 * image_bytes / 1000:.0f} kB in {files} files, row groups of "
        f"{GROUP_ROWS}; {BATCH} rows a step, a window of {WINDOW:,} rows.\n"
    )
    yield "| processes | bytes read / bytes of the images shown | requests a row | of them GET |"
    yield "|---|---|---|---|"
    for world in (1, 4):
        store.requests.clear()
        shown = 0
        for rank in range(world):
            fresh = Rows.open([url], cache=folder / "cache")
            shown += epoch(fresh, Order(fresh.blocks, BATCH, 4, 0, WINDOW, rank, world))
        assert shown == 2 * image_bytes * len(rows)
        got = store.asked("GET", path=".parquet")
        number = len(store.asked(path=".parquet")) / len(rows)
        ratio = sum(got) / shown
        yield f"| {world} | {ratio:.3f} | {number:.4f} | {len(got) / len(rows):.4f} |"
    share = sum(index) / sum(path.stat().st_size for path in folder.rglob("*.parquet"))
    yield (
        f"\nIndex, once a machine: {len(index) / files:.1f} requests and "
        f"{sum(index) / files / 1000:.0f} kB a file ({share:.1%} of the data); opened from the "
        "cache: none.\n"
    )


def order_times(num_rows: int, world: int) -> Iterator[str]:
    """Seconds of the order, a step, on the process in the middle."""
    blocks = np.full(num_rows // GROUP_ROWS, GROUP_ROWS)
    order = Order(blocks, BATCH, 4, 0, WINDOW, world // 2, world)
    ticks = [perf_counter()]
    for step in range(1000):
        order.begun(step, resumed=step == 0)
        order.micro_batches(step)
        ticks.append(perf_counter())
    first, *steps = (1000 * (end - start) for start, end in pairwise(ticks))
    started = perf_counter()
    np.random.default_rng(0).permutation(num_rows)
    whole = 1000 * (perf_counter() - started)
    yield (
        f"Order of {num_rows:,} rows on {world} process{'es' * (world > 1)}: a step "
        f"{median(steps):.2f} ms (99 of 100 below {quantiles(steps, n=100)[98]:.2f}), the first of "
        f"an epoch {first:.0f} ms. One permutation of all rows: {whole:.0f} ms.\n"
    )


def index_times(folder: Path, files: int) -> Iterator[str]:
    """Seconds until the rows of a run on a disk are known."""
    run = write_run(folder / "many", files, 1000)
    times = []
    for _ in range(2):
        started = perf_counter()
        rows = Rows.open([str(run)], cache=folder / "many-cache")
        times.append(perf_counter() - started)
    (file,) = (folder / "many-cache").glob("*.arrow")
    started = perf_counter()
    assert rows.digest
    digest = perf_counter() - started
    yield (
        f"Index of {files:,} files ({len(rows):,} rows) on a disk: {times[0]:.1f} s, from the "
        f"cache {times[1]:.2f} s, {file.stat().st_size / len(rows):.0f} bytes a row; digest of "
        f"the rows {digest:.2f} s."
    )


def main() -> None:
    """Print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=200, help="files of the shuffled epochs")
    parser.add_argument("--image-bytes", type=int, default=20_000)
    parser.add_argument("--index-files", type=int, default=2000)
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    if not commit_is_clean():
        log.warning("the code differs from the commit that is named")
    print(header("What the trainer reads"))
    with scratch() as folder, pytest.MonkeyPatch.context() as patch:
        with s3_store(patch) as store:
            for line in reads(store, folder, args.files, args.image_bytes):
                print(line)
        for world in (1, 8):
            print(*order_times(10_000_000, world), sep="\n")
        print(*index_times(folder, args.index_files), sep="\n")


if __name__ == "__main__":
    main()
