"""What an epoch reads: requests and bytes on a real S3 server, files of a disk opened once."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from fakes.pairs import a_pair
from schemas.arrow import to_table
from schemas.records import Image, Pair
from schemas.shards import DATA_SCHEMA
from trainer.data import index as index_module
from trainer.data.ahead import ReadAhead
from trainer.data.order import Order
from trainer.data.rows import Rows
from trainer.data.shard_files import OpenFiles
from trainer.errors import UsageError

pytest.importorskip("moto", reason="the S3 server of the tests")
from fakes.s3_store import s3_store

FILES, GROUPS, GROUP_ROWS = 10, 2, 8
NUM = FILES * GROUPS * GROUP_ROWS
IMAGE_BYTES = 50_000
ROOT = Path(__file__).parents[3]
OPEN = """
import sys
from pathlib import Path
from trainer.data.rows import Rows
print(Rows.open([sys.argv[1]], cache=Path(sys.argv[2])).digest)
"""


def write_run(folder: Path) -> Path:
    """A run of one file a shard, in sub-folders, each of several row groups."""
    random = np.random.default_rng(0)
    for file in range(FILES):
        pairs = [
            a_pair(
                file * GROUPS * GROUP_ROWS + n,
                chosen_image=Image(random.bytes(IMAGE_BYTES), f"{file}-{n}.jpg"),
                rejected_image=Image(random.bytes(IMAGE_BYTES), None),
            )
            for n in range(GROUPS * GROUP_ROWS)
        ]
        path = folder / "data" / f"{file // 5:03d}" / f"train-{file:05d}-of-{FILES:05d}-ab.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        table = to_table(pairs, Pair).cast(DATA_SCHEMA)
        pq.write_table(
            table,
            path,
            row_group_size=GROUP_ROWS,
            use_dictionary=False,
            compression="none",
            write_page_checksum=True,
        )
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("reads") / "run")


@pytest.fixture(scope="module")
def store():
    with pytest.MonkeyPatch.context() as patch, s3_store(patch) as found:
        yield found


def orders(rows, world, window=32, batch=8, micro=2):
    return [Order(rows.blocks, batch, micro, 3, window, rank, world) for rank in range(world)]


def shown(rows, order, start, stop):
    """Pair ids of every micro-batch of a process."""
    ahead = ReadAhead(rows, order, range(start, stop))
    try:
        return [(m.step, tuple(row.pair_id for row in found)) for m, found in ahead if m.counted]
    finally:
        ahead.close()


@pytest.mark.parametrize("world", [1, 4])
def test_a_shuffled_epoch_reads_every_row_group_about_once(run, store, tmp_path, world):
    rows = Rows.open([store.upload(run, f"epoch-{world}")], cache=tmp_path)
    store.requests.clear()
    seen: Counter = Counter()
    for order in orders(rows, world):
        fresh = Rows.open([f"s3://bucket/epoch-{world}"], cache=tmp_path)
        for _, ids in shown(fresh, order, 0, NUM // 8):
            seen.update(ids)
    assert seen == Counter(rows.pair_ids)
    read = store.asked("GET", path=".parquet")
    # 20 row groups and those in which a process's lanes end; a footer of 64 kB a file.
    assert sum(read) <= 1.4 * NUM * 2 * IMAGE_BYTES
    assert len(store.asked(path=".parquet")) <= NUM * 0.4
    assert 20 <= len([n for n in read if n > 6 * 2 * IMAGE_BYTES]) <= 28


def test_the_index_of_a_distant_run_is_read_once_a_machine_and_without_images(run, store, tmp_path):
    url = store.upload(run, "index")
    command = [sys.executable, "-c", OPEN, url, str(tmp_path)]
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(3)
    ]
    made = [process.communicate()[0].strip() for process in processes]
    assert set(made) == {Rows.open([str(run)]).digest}
    read = store.asked("GET", path=".parquet")
    assert sum(read) < NUM * 2 * IMAGE_BYTES / 5
    assert len(read) <= FILES * (1 + 3 * GROUPS)
    store.requests.clear()
    assert Rows.open([url], cache=tmp_path).digest == made[0]
    assert store.asked(path=".parquet") == []


def test_an_index_in_the_cache_that_is_damaged_or_old_is_made_again(run, tmp_path, monkeypatch):
    monkeypatch.setattr(index_module, "CACHED_FILES", 1)
    copy = tmp_path / "run"
    for path in run.rglob("*.parquet"):
        (copy / path.relative_to(run)).parent.mkdir(parents=True, exist_ok=True)
        (copy / path.relative_to(run)).write_bytes(path.read_bytes())
    cache = tmp_path / "cache"
    digest = Rows.open([str(copy)], cache=cache).digest
    (file,) = cache.glob("*.arrow")
    for data in (file.read_bytes()[:-100], b""):
        file.write_bytes(data)
        assert Rows.open([str(copy)], cache=cache).digest == digest
    next(copy.rglob("*.parquet")).unlink()
    fewer = Rows.open([str(copy)], cache=cache)
    assert len(fewer) == NUM - GROUPS * GROUP_ROWS


def test_a_resumed_epoch_reads_what_is_left_and_shows_it_in_the_same_order(run):
    for window in (32, 10**6):
        (order,) = orders(Rows.open([str(run)]), 1, window)
        through = shown(Rows.open([str(run)]), order, 0, 50)
        (again,) = orders(Rows.open([str(run)]), 1, window)
        assert shown(Rows.open([str(run)]), again, 13, 50) == [x for x in through if x[0] >= 13]


def test_what_was_shown_is_not_kept(run):
    rows = Rows.open([str(run)])
    (order,) = orders(rows, 1)
    ahead = ReadAhead(rows, order, range(40))
    held = []
    for _, found in ahead:
        assert len(found) == 2
        held.append(len(ahead._held))
    ahead.close()
    assert held[-1] == 0
    # The window, a row group for each of the 8 lanes, and what begins in the next four steps.
    assert max(held) <= 32 + 8 * GROUP_ROWS + 4 * 8


def test_files_stay_open(run, monkeypatch):
    rows = Rows.open([str(run)])
    made = []
    opened = pq.ParquetFile
    monkeypatch.setattr(pq, "ParquetFile", lambda *a, **k: made.append(a[0]) or opened(*a, **k))
    for number in np.random.default_rng(1).permutation(NUM):
        rows[number]
    assert len(made) == FILES
    few = OpenFiles(2)
    made.clear()
    for file in rows._index.files:
        few.read(file, 0, ["pair_id"])
        few.read(file, 1, ["pair_id"])
    assert len(made) == FILES
    assert len(few._free) == 2


def test_damage_is_named_where_its_row_is_shown(run, tmp_path):
    copy = tmp_path / "run"
    for path in run.rglob("*.parquet"):
        (copy / path.relative_to(run)).parent.mkdir(parents=True, exist_ok=True)
        (copy / path.relative_to(run)).write_bytes(path.read_bytes())
    rows = Rows.open([str(copy)])
    (order,) = orders(rows, 1)
    (whole,) = orders(Rows.open([str(run)]), 1)
    last = order.rows_of(19)[0]
    file = rows._index.files[last // (GROUPS * GROUP_ROWS)]
    path = Path(file.shown)
    image = Rows.open([str(run)])[last].chosen_image.bytes
    path.write_bytes(path.read_bytes().replace(image, bytes(reversed(image))))
    got = []
    ahead = ReadAhead(rows, order, range(20))
    for micro, found in ahead:
        got.append((micro, getattr(found, "error", None)))
    ahead.close()
    bad = [(m, e) for m, e in got if e is not None]
    assert all(isinstance(e, UsageError) and path.name in str(e) for _, e in bad)
    group = set(range(last // 8 * 8, last // 8 * 8 + 8))
    assert {row for m, _ in bad for row in m.rows} >= group
    assert {m.step for m, _ in bad} <= {s for s in range(20) if group & set(whole.rows_of(s))}
