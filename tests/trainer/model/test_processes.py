"""Two processes (gloo, on this CPU) do what one does: replicated and sharded, resumed, refused."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fakes.pairs import a_pair, save
from tests.trainer.run.test_train import poisoned
from tests.trainer.training import Watch, lines, result, settings
from trainer.errors import UsageError
from trainer.model.processes import Processes
from trainer.run.checkpoints import Checkpoints
from trainer.run.train import Request, train

ROOT = Path(__file__).parents[3]
TOLERANCE = 1e-5
"""Gradients are added in another order. Adam divides by their size, so that where one is nothing
but rounding its sign decides a whole step; an epsilon above the rounding takes that out."""
COMMON = ["optimizer.epsilon=1e-4", "length=1 epoch"]

# 7 rows, 3 a step: shares of 2 and 1, and at the end of an epoch 1 and none.
JOBS = {
    "adapters": ("llava-1.5", "dpo", []),
    "adapters, sharded": ("qwen2.5-vl", "icvco", ["machine.shard=true", "machine.micro_batch=1"]),
    # The last block of LLaVA's tower is not read, so it gets no gradient.
    "whole": ("llava-1.5", "symmpo", []),
    # Weights rounded to bfloat16 beside adapters in float32.
    "adapters, sharded, bfloat16": (
        "llava-interleave",
        "dpo",
        ["machine.shard=true", "weights=bfloat16", "compute=bfloat16", "tune.rank=2"],
    ),
    "whole, sharded": ("qwen3-vl", "svco", ["machine.shard=true"]),
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory, checkpoint):
    """All runs by two processes, which are started once; and what one process makes of them."""
    folder = tmp_path_factory.mktemp("shared")
    run = save(folder / "run", [a_pair(n) for n in range(7)])
    plan = []
    for name, (family, preset, more) in JOBS.items():
        job = {
            "run": run,
            "model": str(checkpoint(family).path),
            "preset": preset,
            "overrides": COMMON + more,
            "out": str(folder / "two" / name),
        }
        if name == "whole, sharded":
            # Interrupted before its first regular checkpoint, and then again.
            plan.append({**job, "stop": 1})
        plan.append(job)
    bad = {**plan[0], "model": poisoned(checkpoint, folder / "poisoned")}
    # Two of four rows, one on each process.
    bad |= {"out": str(folder / "bad"), "overrides": ["batch_size=7", "machine.micro_batch=4"]}
    plan.append({**bad, "refused": "rows: pair-000[25], pair-000[25]"})
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2"]
    command += ["--master_addr=127.0.0.1", "--master_port=0", "--rdzv_backend=c10d"]
    command += ["--rdzv_endpoint=127.0.0.1:0", "-m", "tests.trainer.training", json.dumps(plan)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    for job in plan:
        if "stop" in job or "refused" in job:
            continue
        alone = [text for text in job["overrides"] if "shard" not in text]
        out = folder / "one" / Path(job["out"]).name
        wanted = settings(job["preset"], *alone)
        train(Request((run,), job["model"], wanted, out), Watch())
    return folder


def test_two_processes_in_bfloat16(shared):
    """Products have three digits there, so that only the course of the loss can be compared."""
    name = "adapters, sharded, bfloat16"
    for mine, theirs in zip(
        lines(shared / "one" / name), lines(shared / "two" / name), strict=True
    ):
        assert mine["loss"] == pytest.approx(theirs["loss"], abs=0.05)
    assert all(tensor.dtype == torch.float32 for tensor in result(shared / "two" / name).values())


@pytest.mark.parametrize("name", [name for name in JOBS if "bfloat16" not in name])
def test_two_processes_do_what_one_does(shared, name):
    one, two = shared / "one" / name, shared / "two" / name
    for mine, theirs in zip(lines(one), lines(two), strict=True):
        for key, value in mine.items():
            # Log-ratios are differences of sums near 200 nats, which float32 resolves to 1.5e-5;
            # margins and the terms of a loss are sums of four of them.
            ratios = key.startswith(("log_ratio/", "margin/", "loss/"))
            allowed = 1e-4 if ratios else TOLERANCE
            assert value == pytest.approx(theirs[key], abs=allowed, rel=TOLERANCE), key
    weights, others = result(one), result(two)
    assert weights.keys() == others.keys()
    for key, tensor in weights.items():
        torch.testing.assert_close(tensor, others[key], atol=TOLERANCE, rtol=0, msg=key)


def test_a_bad_row_is_named_on_all_processes_and_nothing_is_written(shared):
    """The driver asserted the message on both."""
    assert not Checkpoints(shared / "bad" / "checkpoints").steps()


def test_a_gpu_that_is_not_there_is_an_error(monkeypatch):
    if torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(UsageError, match="torch sees no GPU"):
        Processes.start("cuda")


def test_accelerates_own_sharding_is_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(UsageError, match=r"machine\.shard=true"):
        Processes.start("cpu")
