"""The scan: nothing lost, nothing twice, nothing left over, memory flat."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.sources import SourceError, open_source, write_manifest
from pipeline.sources.duplicates import SeenIds
from schemas.files import Folder
from schemas.manifest import read_seeds


def row(i, **changes):
    return {"id": f"r{i}", "image": f"{i}.png", "chosen": f"Answer {i}.", **changes}


def write(folder, rows, name="rows.jsonl"):
    path = folder / name
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return open_source(str(path))


def scanned(manifest, folder):
    return [seed for shard in range(manifest.num_shards) for seed in read_seeds(folder, shard)]


needs_proc = pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="peak memory is read from /proc"
)


@pytest.mark.parametrize("shard_size", [1, 3, 4, 10, 11, 1000])
def test_shards_hold_every_row_in_order(tmp_path, shard_size):
    source = write(tmp_path, [row(i) for i in range(11)])
    folder = Folder.at(str(tmp_path / "run"))
    manifest = write_manifest(source, folder, 5, shard_size)
    assert (manifest.num_seeds, manifest.num_duplicates) == (11, 0)
    assert manifest.num_shards == -(-11 // shard_size) == len(folder.names("seeds"))
    seeds = scanned(manifest, folder)
    assert [s.seed_id for s in seeds] == [f"r{i}" for i in range(11)]
    assert {s.run_seed for s in seeds} == {5}
    assert seeds == list(source.rows(5))
    assert len(read_seeds(folder, 0)) == min(shard_size, 11)
    assert manifest.digest == source.digest()
    assert manifest.preset == "native"


@given(
    st.lists(st.integers(0, 12), min_size=1, max_size=60),
    st.integers(1, 9),
    st.one_of(st.none(), st.integers(1, 20)),
)
@settings(max_examples=40)
def test_nothing_is_lost(tmp_path_factory, numbers, shard_size, limit):
    path = tmp_path_factory.mktemp("rows")
    source = write(path, [row(i) for i in numbers])
    folder = Folder.at(str(path / "run"))
    manifest = write_manifest(source, folder, 0, shard_size, limit)
    distinct = list(dict.fromkeys(numbers))
    assert [s.seed_id for s in scanned(manifest, folder)] == [f"r{i}" for i in distinct[:limit]]
    if limit is None or limit > len(distinct):
        assert manifest.num_seeds + manifest.num_duplicates == len(numbers)


def test_duplicates_far_apart_are_found_in_the_files(tmp_path):
    rows = [row(i) for i in range(700)]
    folder = Folder.at(str(tmp_path / "run"))
    manifest = write_manifest(write(tmp_path, [*rows, *rows[::-1]]), folder, 0, 16)
    assert (manifest.num_seeds, manifest.num_duplicates) == (700, 700)
    source = write(tmp_path, [*rows, row(3, chosen="Something else.")])
    with pytest.raises(SourceError) as caught:
        write_manifest(source, folder, 0, 16)
    for word in ("'r3'", "rows.jsonl line 4", "rows.jsonl line 701", "different chosen", "id="):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "changes",
    [
        {"image": "b.png"},
        {"prompt": "Why?"},
        {"rejected": "No."},
        {"license": "CC0"},
        {"objects": [{"label": "dog", "box": [0, 0, 1, 1]}]},
    ],
)
def test_one_id_for_two_rows_is_an_error(tmp_path, changes):
    source = write(tmp_path, [row(1), row(1, **changes)])
    with pytest.raises(SourceError, match=r"line 2.*'r1'.*line 1"):
        write_manifest(source, Folder.at(str(tmp_path / "run")), 0, 8)
    without = open_source(str(tmp_path / "rows.jsonl"), {"id": ""})
    manifest = write_manifest(without, Folder.at(str(tmp_path / "run")), 0, 8)
    assert (manifest.num_seeds, manifest.num_duplicates) == (2, 0)


def test_embedded_images_count_as_content(tmp_path):
    def png(level):
        sink = io.BytesIO()
        PIL.Image.new("L", (8, 8), level).save(sink, "PNG")
        return {"bytes": sink.getvalue(), "path": None}

    def source(levels):
        table = pa.table(
            {"id": ["a", "b", "a"], "image": [png(v) for v in levels], "chosen": ["x"] * 3}
        )
        pq.write_table(table, tmp_path / "a.parquet")
        return open_source(str(tmp_path / "a.parquet"))

    folder = Folder.at(str(tmp_path / "run"))
    manifest = write_manifest(source([1, 2, 1]), folder, 0, 8)
    assert (manifest.num_seeds, manifest.num_duplicates) == (2, 1)
    with pytest.raises(SourceError, match=r"row 2.*different image"):
        write_manifest(source([1, 2, 3]), folder, 0, 8)


def test_a_repeated_scan_leaves_nothing_of_the_one_before(tmp_path):
    folder = Folder.at(str(tmp_path / "run"))
    write_manifest(write(tmp_path, [row(i) for i in range(50)]), folder, 0, 4)
    source = write(tmp_path, [*(row(i) for i in range(100, 105)), {"image": 7, "chosen": "x"}])
    with pytest.raises(SourceError):  # interrupted in the middle
        write_manifest(source, folder, 0, 4)
    source = write(tmp_path, [row(i) for i in range(5)])
    manifest = write_manifest(source, folder, 0, 4)
    assert folder.names("seeds") == ["seeds-00000.parquet", "seeds-00001.parquet"]
    assert [s.seed_id for s in scanned(manifest, folder)] == [f"r{i}" for i in range(5)]


def test_rows_beyond_the_limit_are_not_read(tmp_path):
    source = write(tmp_path, [row(0), row(1), {"image": 7, "chosen": "x"}])
    folder = Folder.at(str(tmp_path / "run"))
    assert write_manifest(source, folder, 0, 8, limit=2).num_seeds == 2
    with pytest.raises(SourceError, match="line 3"):
        write_manifest(source, folder, 0, 8, limit=3)


def test_a_parquet_file_without_rows_is_empty(tmp_path):
    table = pa.table({"image": pa.array([], pa.string()), "chosen": pa.array([], pa.string())})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(SourceError, match="empty"):
        write_manifest(
            open_source(str(tmp_path / "a.parquet")), Folder.at(str(tmp_path / "run")), 0, 8
        )


def test_twelve_bytes_an_id():
    seen = SeenIds()
    for start in range(0, 20_000, 100):
        seen.add([f"id{i}" for i in range(start, start + 100)], range(start, start + 100))
    assert seen.num_bytes == 12 * 20_000
    assert seen.candidates(["id0", "id19999", "id20000", ""]) == [[0], [19_999], [], []]


def test_agreeing_digests_are_only_candidates(tmp_path, monkeypatch):
    """Were all digests equal, the scan would be slow, and still right."""
    monkeypatch.setattr(
        "pipeline.sources.duplicates._digests", lambda ids: np.zeros(len(ids), dtype=np.uint64)
    )
    numbers = [*range(300), *range(0, 300, 7)]
    folder = Folder.at(str(tmp_path / "run"))
    manifest = write_manifest(write(tmp_path, [row(i) for i in numbers]), folder, 0, 50)
    assert (manifest.num_seeds, manifest.num_duplicates) == (300, 43)


@needs_proc
def test_memory_stays_flat(tmp_path):
    """The peak of a scan hardly depends on the number of rows."""
    code = (
        "import sys\n"
        "from pipeline.sources import open_source, write_manifest\n"
        "from schemas.files import Folder\n"
        "write_manifest(open_source(sys.argv[1]), Folder.at(sys.argv[2]), 0, 128)\n"
        # Not getrusage: its peak is inherited from the process that started this one.
        "lines = open('/proc/self/status').read().splitlines()\n"
        "print(next(int(l.split()[1]) for l in lines if l.startswith('VmHWM')) // 1024)\n"
    )
    text = "A dog on the grass. " * 40
    peaks = []
    for num_rows in (500, 10_000):
        write(tmp_path, [row(i, prompt=text) for i in range(num_rows)])
        arguments = [str(tmp_path / "rows.jsonl"), str(tmp_path / "run")]
        done = subprocess.run(
            [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
        )
        peaks.append(int(done.stdout))
    assert peaks[1] < 500
    assert peaks[1] - peaks[0] < 60
