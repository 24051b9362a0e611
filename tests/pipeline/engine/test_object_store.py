"""A run whose input and output are on S3: a real server on loopback, nothing is mocked."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from pipeline.demo.scenes import write_scenes

NUM = 10
SERVER = """
import sys
from moto.server import main
sys.exit(main(["-H", "127.0.0.1", "-p", sys.argv[1]]))
"""


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    """Environment of a process that finds an S3 with one empty bucket, called "bucket"."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER, str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    own = {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "NO_PROXY": "127.0.0.1",
        "no_proxy": "127.0.0.1",
    }
    try:
        deadline = time.monotonic() + 300
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert time.monotonic() < deadline
            time.sleep(0.1)
        s3(url).create_bucket(Bucket="bucket")
        yield {**os.environ, **own}
    finally:
        server.terminate()
        server.wait()


def s3(url: str):
    return boto3.client(
        "s3",
        endpoint_url=url,
        aws_access_key_id="test",
        aws_secret_access_key="test",
        region_name="us-east-1",
    )


def nearmiss(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipeline", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )


def test_input_and_output_on_s3(environment, tmp_path: Path):
    store = s3(environment["AWS_ENDPOINT_URL"])
    lines = write_scenes(tmp_path / "in", NUM, side=96)
    for path in sorted((tmp_path / "in").rglob("*.*")):
        name = f"in/{path.relative_to(tmp_path / 'in')}"
        store.put_object(Bucket="bucket", Key=name, Body=path.read_bytes())
    run = ["run", "crop", "--local", "--set", "shard_size=4", "--output", "s3://bucket/run"]
    done = nearmiss(environment, *run, "--input", "s3://bucket/in/seeds.jsonl")
    assert done.returncode == 0, done.stderr
    keys = {x["Key"] for x in store.list_objects_v2(Bucket="bucket", Prefix="run/")["Contents"]}
    files = {key for key in keys if not key.endswith("/")}
    assert files == {
        "run/run.json", "run/progress.json", "run/README.md", "run/report.html",
        "run/data/train-00000-of-00001.parquet",
        *(f"run/parts/part-{i:05d}.parquet" for i in range(3)),
        *(f"run/seeds/seeds-{i:05d}.parquet" for i in range(3)),
    }  # fmt: skip

    # A part is lost; the same command makes it again, and the data come out the same.
    data = store.get_object(Bucket="bucket", Key="run/data/train-00000-of-00001.parquet")
    before = data["Body"].read()
    store.delete_object(Bucket="bucket", Key="run/parts/part-00001.parquet")
    status = nearmiss(environment, "status", "s3://bucket/run", "--json")
    assert status.returncode == 3
    assert json.loads(status.stdout)["num_seeds_done"] == NUM - 4
    again = nearmiss(environment, *run, "--input", "s3://bucket/in/seeds.jsonl")
    assert again.returncode == 0, again.stderr
    data = store.get_object(Bucket="bucket", Key="run/data/train-00000-of-00001.parquet")
    assert data["Body"].read() == before
    first = json.loads(lines.read_text().splitlines()[0])["id"]
    shown = nearmiss(environment, "show", "s3://bucket/run", first)
    assert shown.returncode == 0
    assert first in shown.stdout


def test_a_bucket_that_is_not_there(environment, tmp_path: Path):
    lines = write_scenes(tmp_path / "in", 1, side=96)
    done = nearmiss(
        environment, "run", "crop", "--local", "--input", str(lines), "--output", "s3://nowhere/run"
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "s3://nowhere/run: cannot be written" in done.stderr


CACHE = """
from schemas.files import Folder
from stages.backends.chat.cache import CompletionCache
from stages.backends.chat.replies import Completion

folder = Folder.at("s3://bucket/replies")
cache, reply = CompletionCache(folder), Completion("yes \\u00e9", None, False, 10, 2)
assert cache.get("abc") is None
cache.put("abc", reply)
assert cache.get("abc") == reply
folder.write("ab/abc.json", b"half a re")
assert cache.get("abc") is None
cache.put("abc", reply)
assert CompletionCache(folder).get("abc") == reply
"""


def test_chat_replies_are_cached_in_a_bucket(environment):
    done = subprocess.run(
        [sys.executable, "-c", CACHE], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
