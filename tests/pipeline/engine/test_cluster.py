"""Real clusters on one machine: several nodes, one of which is taken away; a submitted job."""

from __future__ import annotations

import logging
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import ray.data
from ray.cluster_utils import Cluster
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.errors import RunError
from pipeline.inspect.status import status
from pipeline.run import Exit, run
from tests.pipeline.harness import Bench, Trouble

pytestmark = [pytest.mark.ray, pytest.mark.slow]

ROOT = Path(__file__).parents[3]
RAY = str(Path(sys.executable).with_name("ray"))
STORE_BYTES = 80 * 2**20


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A head without CPUs, and two nodes with one each."""
    nodes = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 0,
            "object_store_memory": STORE_BYTES,
            "include_dashboard": False,
            # That a node is gone is seen in a second, not in half a minute.
            "_system_config": {"health_check_period_ms": 300, "health_check_failure_threshold": 3},
        },
    )
    try:
        nodes.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
        nodes.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
        ray.init(address=nodes.address, log_to_driver=False, logging_level=logging.ERROR)
        nodes.wait_for_nodes()
        yield nodes
    finally:
        ray.shutdown()
        nodes.shutdown()


@pytest.mark.faults
def test_a_node_is_lost_under_way(tmp_path, cluster):
    here, there = Bench(tmp_path / "here", num=20), Bench(tmp_path / "there", num=20)
    trouble = until_gone(there)
    gone(there).touch()
    assert run(here.request(trouble, local=True)) == Exit.COMPLETE
    gone(there).unlink()
    with lost(cluster, next(iter(cluster.worker_nodes)), there, in_flight=2):
        assert run(there.request(trouble)) == Exit.COMPLETE
    assert sum(node["Alive"] for node in ray.nodes()) == 2
    there.check_all_accounted_for()
    assert there.rows() == here.rows()


@contextmanager
def lost(cluster: Cluster, node: Any, bench: Bench, in_flight: int) -> Iterator[None]:
    """Once so many rows are in flight and a part is there, the node goes; `gone(bench)` says so."""

    def remove() -> None:
        while (
            len(list(bench.run_dir.glob("strikes/inflight-*"))) < in_flight
            or not (bench.run_dir / "parts").exists()
        ):
            time.sleep(0.1)
        cluster.remove_node(node, allow_graceful=False)
        gone(bench).touch()

    thread = threading.Thread(target=remove, daemon=True)
    thread.start()
    yield
    thread.join(timeout=300)
    assert gone(bench).exists()


def gone(bench: Bench) -> Path:
    return bench.folder / "gone"


def until_gone(bench: Bench, **more: Any) -> Trouble:
    """The last third of the rows waits for the loss: no run is done before it, however slow."""
    waits = tuple(bench.ids[-bench.num // 3 :])
    return Trouble(waits=waits, waits_for=str(gone(bench)), sleep_s=0.1, **more)


@pytest.fixture
def a_node_each(cluster, monkeypatch) -> list[Any]:
    """The nodes on which the actors of the first and of the second group are, while they live."""
    nodes = list(cluster.worker_nodes)
    plain, num = ray.data.Dataset.map_batches, count()

    def on_its_node(*args: Any, **more: Any) -> ray.data.Dataset:
        where = NodeAffinitySchedulingStrategy(nodes[next(num) % 2].node_id, soft=True)
        return plain(*args, scheduling_strategy=where, **more)

    monkeypatch.setattr(ray.data.Dataset, "map_batches", on_its_node)
    monkeypatch.setattr("pipeline.engine.supervisor.SILENT_S", 10.0)
    return nodes


@pytest.mark.parametrize("group", [0, pytest.param(1, marks=pytest.mark.faults)])
def test_a_node_that_held_all_of_one_group_is_lost(tmp_path, cluster, a_node_each, group):
    """The other group's pool fills the node that is left; it must make room."""
    bench = Bench(tmp_path, num=60)
    with lost(cluster, a_node_each[group], bench, in_flight=2):
        assert run(bench.request(until_gone(bench, split=True))) == Exit.COMPLETE
    bench.check_all_accounted_for()
    assert {row["status"] for row in bench.rows()} == {"pair"}


@pytest.mark.faults
def test_what_is_left_is_too_small(tmp_path, cluster, a_node_each):
    bench = Bench(tmp_path, num=60)
    whole = until_gone(bench, split=True, num_cpus=1.0, stall_limit_s=14.0, time_limit_s=9.0)
    said = "nodes were lost: the placement needs at least 2 CPUs, .* has 1 and 0; .* same command"
    with lost(cluster, a_node_each[0], bench, 2), pytest.raises(RunError, match=said):
        run(bench.request(whole))
    # A node comes, and with it the rest.
    cluster.add_node(num_cpus=1, object_store_memory=STORE_BYTES)
    done = len(list((bench.run_dir / "parts").iterdir()))
    assert 0 < done < 15
    assert run(bench.request(replace(whole, stall_limit_s=1800))) == Exit.COMPLETE
    bench.check_all_accounted_for()


@dataclass(frozen=True)
class Head:
    """A cluster of one node, started from the command line."""

    dashboard: str
    """Where jobs are submitted."""
    environment: dict[str, str]
    """What a submitter needs in its environment."""


@pytest.fixture
def head() -> Iterator[Head]:
    """`ray start --head` with ports of its own, and all of its processes ended at the end."""
    # A short path: the sockets' names go into 107 bytes.
    folder = tempfile.mkdtemp(prefix="nm-", dir="/tmp")
    environment = os.environ | {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    environment.pop("RAY_ADDRESS", None)
    names = [
        "port",
        "dashboard-port",
        "dashboard-agent-listen-port",
        "dashboard-agent-grpc-port",
        "metrics-export-port",
        "ray-client-server-port",
        "node-manager-port",
        "object-manager-port",
        "runtime-env-agent-port",
    ]
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    command = [
        RAY, "start", "--head", "--block", "--disable-usage-stats", "--num-cpus=2",
        f"--object-store-memory={STORE_BYTES}", f"--temp-dir={folder}",
        *(f"--{name}={port}" for name, port in ports.items()),
    ]  # fmt: skip
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        yield Head(f"http://127.0.0.1:{ports['dashboard-port']}", environment)
    finally:
        end(process)
        shutil.rmtree(folder, ignore_errors=True)


def free_ports(num: int) -> list[int]:
    """Ports outside 10002-19999, where Ray puts its workers."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(num)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    assert all(port > 19_999 for port in ports)
    return ports


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    process.terminate()
    _, alive = psutil.wait_procs(family, timeout=3)
    for one in alive:
        one.kill()
    psutil.wait_procs(alive, timeout=10)
    process.wait()


def checkout(folder: Path) -> Path:
    """A copy of the code, with one word changed, so that one sees whose code ran."""
    for name in ("pipeline", "workers", "stages", "schemas", "trainer"):
        ignore = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, folder / name, ignore=ignore)
    for name in ("pyproject.toml", "README.md", ".rayignore"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, folder / name)
    cropper = folder / "stages" / "edit" / "cropper.py"
    text = cropper.read_text()
    assert "crop the image to" in text
    cropper.write_text(text.replace("crop the image to", "crop the copy to"))
    return folder


def test_a_submitted_job(tmp_path, head):
    bench = Bench(tmp_path, num=6)
    submit = [RAY, "job", "submit", "--address", head.dashboard]
    submit += ["--working-dir", checkout(tmp_path / "tree"), "--", sys.executable, "-m", "pipeline"]
    submit += ["run", "crop", "--input", bench.input, "--output", bench.run_dir]
    submit += ["--set", "shard_size=3"]
    wait_for(head)
    job = subprocess.run(
        submit, env=head.environment, capture_output=True, text=True, check=False, timeout=500
    )
    assert job.returncode == 0, job.stdout + job.stderr
    assert "6/6 seeds, 2/2 shards, 6 pairs" in job.stdout
    bench.check_all_accounted_for()
    assert status(str(bench.run_dir), as_json=True)[1]
    said = {row["contrast"]["instruction"][:16] for row in bench.rows()}
    assert said == {"crop the copy to"}
    # A job that cannot succeed ends with a failure, too.
    wrong = [*map(str, submit)]
    wrong[wrong.index("crop")] = "corp"
    job = subprocess.run(
        wrong, env=head.environment, capture_output=True, text=True, check=False, timeout=300
    )
    assert job.returncode != 0
    assert "nearmiss: unknown recipe 'corp'" in job.stdout + job.stderr


def wait_for(head: Head) -> None:
    """Wait until jobs are taken."""
    deadline = time.monotonic() + 300
    request = urllib.request.Request(
        f"{head.dashboard}/api/jobs/",
        headers={"Authorization": f"Bearer {head.environment['RAY_AUTH_TOKEN']}"},
    )
    while True:
        try:
            with urllib.request.urlopen(request, timeout=5):
                return
        except OSError:
            assert time.monotonic() < deadline, "the head did not start"
            time.sleep(0.3)
