"""Runs under Ray Train end as without it: one whose worker is killed, those that are refused."""

from __future__ import annotations

import signal
import threading
import time
from dataclasses import replace

import psutil
import pytest
import ray
import torch

from fakes.pairs import a_pair, save
from tests.trainer.training import Watch, lines, result, settings
from trainer.__main__ import main
from trainer.errors import CheckpointFileError, NonFiniteLossError, UsageError
from trainer.run.checkpoints import Checkpoints
from trainer.run.on_ray import attempt, raise_noted, train_on_ray
from trainer.run.stop import nothing
from trainer.run.train import Request, train


@pytest.fixture
def cluster():
    # Two workers of a CPU each, and room for Ray Train's own controller.
    ray.init(
        address="local",
        num_cpus=3,
        object_store_memory=80 * 2**20,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"OMP_NUM_THREADS": "1"}},
    )
    yield
    ray.shutdown()


def kill_a_worker_after_the_first_checkpoint(out, killed):
    checkpoints = Checkpoints(out / "checkpoints")
    while not checkpoints.steps():
        time.sleep(0.01)
    # Ray's processes are children of this one; only this test's cluster is among them.
    for process in psutil.Process().children(recursive=True):
        if "RayTrainWorker" in " ".join(process.cmdline()):
            killed.append((process.pid, checkpoints.steps()[-1]))
            process.kill()
            return


# Three starts of processes that import torch and transformers, on a machine that may be busy.
@pytest.mark.ray
@pytest.mark.slow
def test_two_workers_of_which_one_is_killed_do_what_one_process_does(cluster, checkpoint, tmp_path):
    run = save(tmp_path / "run", [a_pair(n) for n in range(7)])
    model = str(checkpoint("llava-1.5").path)
    wanted = settings("dpo", "optimizer.epsilon=1e-4", "length=60 steps")
    killed = []
    thread = threading.Thread(
        target=kill_a_worker_after_the_first_checkpoint, args=(tmp_path / "ray", killed)
    )
    thread.start()
    interrupt = signal.getsignal(signal.SIGINT)
    outcome = train_on_ray(Request((run,), model, wanted, tmp_path / "ray"), 2)
    thread.join()
    ((_, step),) = killed
    assert step < 60
    assert outcome.complete
    assert outcome.step == 60
    assert signal.getsignal(signal.SIGINT) is interrupt
    assert train(Request((run,), model, wanted, tmp_path / "one"), Watch()).complete
    mine, theirs = lines(tmp_path / "ray"), lines(tmp_path / "one")
    assert [line["step"] for line in mine] == list(range(1, 61))
    for one, other in zip(mine[:6], theirs[:6], strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-5)
    # In 60 steps the rounding of another order of addition grows.
    weights = result(tmp_path / "one")
    for name, tensor in result(tmp_path / "ray").items():
        torch.testing.assert_close(tensor, weights[name], atol=1e-3, rtol=0, msg=name)


def test_a_model_that_cannot_fill_the_views_is_refused_before_anything_starts(
    checkpoint, tmp_path, capsys
):
    run = save(tmp_path / "run", [a_pair(0)])
    command = ["train", run, "--model", str(checkpoint("llava-1.5").path), "--preset", "icvco"]
    command += ["--output", str(tmp_path / "out"), "--ray-workers", "2"]
    assert main([*command, "--set", "machine.device=cpu"]) == 2
    assert "two images in one prompt" in capsys.readouterr().err
    assert not ray.is_initialized()


def test_what_a_worker_refuses_ends_every_further_start_alike(checkpoint, tmp_path):
    """As a worker does it, without the cluster around it."""
    run = save(tmp_path / "run", [a_pair(0, rejected=None)])
    model = str(checkpoint("llava-1.5").path)
    request = Request((run,), model, settings("dpo"), tmp_path / "out")
    raise_noted(request)
    with pytest.raises(UsageError, match="1 lack rejected"):
        attempt(request, Watch(), nothing)
    # The second start looks at nothing but the note; nor does the driver, which ends with it.
    gone = replace(request, shards=("gone",), model="gone")
    with pytest.raises(UsageError, match="1 lack rejected"):
        attempt(gone, Watch(), nothing)
    with pytest.raises(UsageError, match="1 lack rejected"):
        raise_noted(gone)


@pytest.mark.parametrize("kind", [UsageError, NonFiniteLossError, CheckpointFileError])
def test_a_note_keeps_the_kind_of_the_error(kind, tmp_path, monkeypatch):
    def fail(*_):
        raise kind("no more of this")

    request = Request((), "m", settings("dpo"), tmp_path)
    monkeypatch.setattr("trainer.run.on_ray.train", fail)
    with pytest.raises(kind):
        attempt(request, Watch(), nothing)
    with pytest.raises(kind, match=r"^no more of this$"):
        raise_noted(request)
