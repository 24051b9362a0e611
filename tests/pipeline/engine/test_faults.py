"""What can go wrong with a process, a record or a file: nothing may be lost or doubled."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from pipeline.engine.progress import ErrorShareError
from pipeline.errors import UsageError
from pipeline.run import Exit, run
from pipeline.run_folder import RunFolder
from tests.pipeline.harness import Bench, Trouble

pytestmark = pytest.mark.slow


def reference(tmp_path: Path, trouble: Trouble) -> list[dict[str, object]]:
    """The rows of the same run without interference."""
    calm = Bench(tmp_path / "calm")
    assert run(calm.request(trouble, local=True)) == Exit.COMPLETE
    return calm.rows()


def kill_until_done(bench: Bench, trouble: Trouble, delays: list[float], *, local: bool) -> int:
    """Start drivers and kill each after its delay, the last one not; returns the kills that hit."""
    hits = 0
    for delay in delays:
        driver = bench.driver(trouble, local=local)
        try:
            driver.wait(delay)
        except subprocess.TimeoutExpired:
            driver.send_signal(signal.SIGKILL)
            hits += 1
        driver.communicate()
    driver = bench.driver(trouble, local=local)
    _, stderr = driver.communicate(timeout=500)
    assert driver.returncode == 0, stderr.decode()
    return hits


def test_a_local_driver_killed_at_random_moments(bench, tmp_path):
    # More work than fits between any two kills: 6.4 s of it, whatever the machine.
    trouble = Trouble(sleep_s=0.4)
    delays = np.random.default_rng(1).uniform(2.0, 4.0, 4)
    assert kill_until_done(bench, trouble, list(delays), local=True) >= 2
    bench.check_all_accounted_for()
    assert [r["seed_id"] for r in bench.rows() if r["status"] == "pair"] == bench.ids
    assert bench.rows() == reference(tmp_path, trouble)


@pytest.mark.ray
@pytest.mark.faults
def test_a_ray_driver_killed_at_random_moments(bench, tmp_path):
    trouble = Trouble(sleep_s=0.8)
    delays = np.random.default_rng(2).uniform(8, 12, 2)
    assert kill_until_done(bench, trouble, list(delays), local=False) >= 1
    bench.check_all_accounted_for()
    assert bench.rows() == reference(tmp_path, trouble)


@pytest.mark.ray
def test_actors_killed_under_way(bench, tmp_path, small_ray):
    trouble = Trouble(sleep_s=0.3)
    stop, killed = threading.Event(), list[int]()

    def assassin() -> None:
        while not stop.wait(2.5) and len(killed) < 3:
            actors = [p for p in psutil.process_iter(["cmdline"]) if is_shard_actor(p)]
            if actors and list(Path(bench.run_dir, "strikes").glob("inflight-*")):
                os.kill(actors[0].pid, signal.SIGKILL)
                killed.append(actors[0].pid)

    thread = threading.Thread(target=assassin)
    thread.start()
    try:
        assert run(bench.request(trouble)) == Exit.COMPLETE
    finally:
        stop.set()
        thread.join()
    assert killed
    bench.check_all_accounted_for()
    assert bench.rows() == reference(tmp_path, trouble)


def is_shard_actor(process: psutil.Process) -> bool:
    """Whether a process is an actor of this test's own cluster."""
    mine = {p.pid for p in psutil.Process().children(recursive=True)}
    return process.pid in mine and "ShardActor" in " ".join(process.info["cmdline"] or ())


@pytest.mark.ray
@pytest.mark.parametrize(
    "engine", ["local", "ray", pytest.param("ray in two groups", marks=pytest.mark.faults)]
)
def test_records_that_raise_exit_and_hang(bench, small_ray, engine):
    ids = bench.ids
    split = engine == "ray in two groups"
    trouble = Trouble(
        raises=(ids[1],), exits=(ids[6],), hangs=(ids[11],), time_limit_s=3.0, split=split
    )
    assert run(bench.request(trouble, local=engine == "local")) == Exit.COMPLETE
    bench.check_all_accounted_for()
    reasons = {r["seed_id"]: r["reason"] for r in bench.rows() if r["status"] == "drop"}
    assert reasons == {ids[1]: "model_error", ids[6]: "crashed", ids[11]: "timed_out"}
    (error,) = [r for r in bench.rows() if r["reason"] == "model_error"]
    assert f"RuntimeError: cannot do {ids[1]}" in error["detail"]
    assert error["chosen_image"]["bytes"]


def test_a_killed_driver_takes_its_local_worker_along(bench):
    driver = bench.driver(Trouble(sleep_s=2.0), local=True)
    deadline = time.monotonic() + 300
    while not list(bench.run_dir.glob("strikes/inflight-*")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    workers = psutil.Process(driver.pid).children(recursive=True)
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    _, alive = psutil.wait_procs(workers, timeout=5)
    assert workers
    assert not alive


def test_a_disk_that_is_full_is_said_and_survived(tmp_path):
    bench = Bench(tmp_path / "small")
    bench.input  # noqa: B018  # made before the disk is mounted
    bench.run_dir.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o", "size=160k", "tmpfs", str(bench.run_dir)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("mounting a small tmpfs needs root")
    try:
        driver = bench.driver(Trouble(), local=True)
        _, stderr = driver.communicate(timeout=300)
        assert driver.returncode == 1
        assert b"No space left on device" in stderr
        done = len(list((bench.run_dir / "parts").glob("part-*.parquet")))
        assert 0 < done < 4
        assert not list(bench.run_dir.rglob(".*.tmp"))
        subprocess.run(
            ["mount", "-o", "remount,size=50m", str(bench.run_dir)], capture_output=True, check=True
        )
        assert run(bench.request(Trouble(), local=True)) == Exit.COMPLETE
        bench.check_all_accounted_for()
        assert bench.rows() == reference(tmp_path, Trouble())
    finally:
        subprocess.run(["umount", str(bench.run_dir)], check=True)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "gone", "half the seeds"])
def test_a_damaged_part_is_made_again(bench, tmp_path, damage):
    assert run(bench.request(Trouble(), local=True)) == Exit.COMPLETE
    before = bench.rows()
    part = bench.run_dir / "parts" / "part-00002.parquet"
    data = bytearray(part.read_bytes())
    match damage:
        case "truncated":
            part.write_bytes(data[: len(data) // 2])
        case "flipped":
            data[len(data) // 3] ^= 0xFF
            part.write_bytes(data)
        case "empty":
            part.write_bytes(b"")
        case "gone":
            part.unlink()
        case "half the seeds":
            other = Bench(tmp_path / "other", num=16)
            assert run(other.request(Trouble(shard_size=2), local=True)) == Exit.COMPLETE
            part.write_bytes((other.run_dir / "parts" / "part-00004.parquet").read_bytes())
    assert run(bench.request(Trouble(), local=True)) == Exit.COMPLETE
    assert RunFolder.open(str(bench.run_dir)).audit().complete
    bench.check_all_accounted_for()
    assert bench.rows() == before


def test_a_stage_that_keeps_failing_stops_the_run(bench):
    trouble = Trouble(raises=tuple(bench.ids[:8]), min_errors=3)
    with pytest.raises(ErrorShareError, match="stage saboteur of recipe crop failed on 4 of 4"):
        run(bench.request(trouble, local=True))
    assert len(list((bench.run_dir / "parts").iterdir())) == 1


def test_errors_can_be_tried_again(bench, tmp_path):
    """Rows that raised and rows that crashed become pairs once the cause is mended."""
    ids, mended = bench.ids, tmp_path / "mended"
    flaky = Trouble(raises=(ids[0],), exits=(ids[9],), mended=str(mended))
    assert run(bench.request(flaky, local=True)) == Exit.COMPLETE
    reasons = {r["seed_id"]: r["reason"] for r in bench.rows() if r["status"] == "drop"}
    assert reasons == {ids[0]: "model_error", ids[9]: "crashed"}
    untouched = bench.run_dir / "parts" / "part-00001.parquet"
    inode = untouched.stat().st_ino
    mended.touch()
    assert run(bench.request(flaky, local=True)) == Exit.COMPLETE
    assert {r["seed_id"] for r in bench.rows() if r["status"] == "drop"} == {ids[0], ids[9]}
    assert run(replace(bench.request(flaky, local=True), retry_errors=True)) == Exit.COMPLETE
    assert [r["seed_id"] for r in bench.rows() if r["status"] == "pair"] == ids
    assert untouched.stat().st_ino == inode


def test_a_second_driver_is_refused_and_a_dead_one_is_not_waited_for(bench):
    trouble = Trouble(sleep_s=0.3)
    first = bench.driver(trouble, local=True)
    try:
        deadline = time.monotonic() + 300
        while not (bench.run_dir / "lease.json").exists():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        with pytest.raises(UsageError, match=rf"another driver works here .process {first.pid} on"):
            run(bench.request(trouble, local=True))
    finally:
        first.send_signal(signal.SIGKILL)
        first.communicate()
    assert (bench.run_dir / "lease.json").exists()
    assert run(bench.request(trouble, local=True)) == Exit.COMPLETE
    assert not (bench.run_dir / "lease.json").exists()
    bench.check_all_accounted_for()
