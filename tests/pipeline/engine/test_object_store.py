"""A run whose input and output are on S3: a real server on loopback, nothing is mocked."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from fakes.s3_store import s3_store
from pipeline.demo.scenes import write_scenes

NUM = 10


@pytest.fixture(scope="module")
def environment() -> Iterator[dict[str, str]]:
    """Environment of a process that finds an S3 with one empty bucket, called "bucket"."""
    with pytest.MonkeyPatch.context() as patch, s3_store(patch):
        yield dict(os.environ)


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
    store = boto3.client("s3", endpoint_url=environment["AWS_ENDPOINT_URL"])
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
