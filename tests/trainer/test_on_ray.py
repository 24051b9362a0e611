"""A run under Ray Train, one of whose workers is killed halfway, ends as one without Ray."""

from __future__ import annotations

import threading
import time

import psutil
import pytest
import ray
import torch

from tests.trainer.pairs import a_pair, save
from tests.trainer.training import Watch, lines, result, settings
from trainer.checkpoints import Checkpoints
from trainer.on_ray import train_on_ray
from trainer.train import Request, train

# Three starts of processes that import torch and transformers, on a machine that may be busy.
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(500)]


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


def test_two_workers_of_which_one_is_killed_do_what_one_process_does(cluster, checkpoint, tmp_path):
    run = save(tmp_path / "run", [a_pair(n) for n in range(7)])
    model = str(checkpoint("llava-1.5").path)
    wanted = settings("dpo", "optimizer.epsilon=1e-4", "length=60 steps")
    killed = []
    thread = threading.Thread(
        target=kill_a_worker_after_the_first_checkpoint, args=(tmp_path / "ray", killed)
    )
    thread.start()
    outcome = train_on_ray(Request((run,), model, wanted, tmp_path / "ray"), 2)
    thread.join()
    ((_, step),) = killed
    assert step < 60
    assert outcome.complete
    assert outcome.step == 60
    assert train(Request((run,), model, wanted, tmp_path / "one"), Watch()).complete
    mine, theirs = lines(tmp_path / "ray"), lines(tmp_path / "one")
    assert [line["step"] for line in mine] == list(range(1, 61))
    for one, other in zip(mine[:6], theirs[:6], strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-5)
    # In 60 steps the rounding of another order of addition grows.
    weights = result(tmp_path / "one")
    for name, tensor in result(tmp_path / "ray").items():
        torch.testing.assert_close(tensor, weights[name], atol=1e-3, rtol=0, msg=name)
