"""The same run on a Ray cluster: Ray Train starts and restarts the processes.

    ray job submit --working-dir . -- python -m trainer train ... --ray-workers 8

Checkpoints are the run's own, in its folder, which all nodes mount. After a lost worker Ray starts
all of them again, and they resume from the newest one. So Ray stores no checkpoint of its own.
"""

from __future__ import annotations

import logging
import signal
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch

from schemas.files import Folder
from trainer.data.dataset import open_family
from trainer.errors import CheckpointFileError, NonFiniteLossError, UsageError
from trainer.run.loop import StepResult
from trainer.run.recorder import Monitor
from trainer.run.run_folder import RunFolder
from trainer.run.stop import StopCheck, StopRequest
from trainer.run.train import Outcome, Request, train

log = logging.getLogger(__name__)

MAX_FAILURES = 3
"""Restarts after lost workers, so that a repeated fault ends the run. Pre-emptions do not count."""
_REQUEST = "request"

_FINAL = (UsageError, NonFiniteLossError, CheckpointFileError)
"""Errors that a restart would repeat."""
_NOTE = "refused.json"
"""File in `RUN/ray/` that records such an error for the next start and for the driver."""


@dataclass
class _Reports:
    """A `Monitor` that logs one line a step, for Ray to collect."""

    log_every: int
    num_steps: int = field(default=0, init=False)

    def begin(self, step: int, num_steps: int) -> None:
        self.num_steps = num_steps
        log.info("from step %d of %d", step, num_steps)

    def step(self, step: int, result: StepResult) -> None:
        if step % self.log_every == 0 or step == self.num_steps:
            loss = result.sums["loss"] / result.rows
            log.info("step %d of %d, loss %.4f", step, self.num_steps, loss)

    def saved(self, folder: Path) -> None:
        log.info("checkpoint %s", folder.name)


def train_on_ray(request: Request, workers: int) -> Outcome:
    """Train on `workers` workers of the cluster, each with a GPU if `machine.device` is cuda.

    Raises at once what a worker raised (UsageError, NonFiniteLossError, CheckpointFileError), as a
    restart would not help; RuntimeError when workers were lost more than `MAX_FAILURES` times.
    """
    # Check model and loss on the driver: workers take most of a minute to get as far.
    open_family(request.model, request.revision, request.settings)
    gpu = request.settings.machine.device == "cuda"
    _notes(request).delete(_NOTE)
    trainer = ray.train.torch.TorchTrainer(
        _worker,
        train_loop_config={_REQUEST: request},
        torch_config=ray.train.torch.TorchConfig(backend="nccl" if gpu else "gloo"),
        scaling_config=ray.train.ScalingConfig(num_workers=workers, use_gpu=gpu),
        run_config=ray.train.RunConfig(
            name="attempts",
            storage_path=str(request.out / "ray"),
            failure_config=ray.train.FailureConfig(max_failures=MAX_FAILURES),
        ),
    )
    interrupt = signal.getsignal(signal.SIGINT)
    try:
        trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise_noted(request)
        raise RuntimeError(f"the workers failed: {error}") from error
    finally:
        # `fit` (Ray 2.60) leaves a handler that aborts a controller which is gone by now.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, interrupt)
    card = RunFolder(request.out).card()
    assert card is not None, "workers that end well have written what they did"
    return Outcome(card["num_steps"], card["num_steps"])


def _worker(config: dict[str, Any]) -> None:
    logging.basicConfig(level=logging.INFO if _rank() == 0 else logging.WARNING)
    request: Request = config[_REQUEST]
    attempt(request, _Reports(request.settings.keep.log_every), _preempted())


def attempt(request: Request, monitor: Monitor, stop_check: StopCheck) -> None:
    """Train on one worker, and record an error that a restart would repeat.

    Ray restarts all workers after any error; the next start reads the record and ends at once.
    """
    raise_noted(request)
    try:
        train(request, monitor, stop_check)
    except _FINAL as error:
        content = {"kind": type(error).__name__, "message": str(error)}
        _notes(request).write_json(_NOTE, content)
        raise


def raise_noted(request: Request) -> None:
    """Raise the error that a worker recorded, with its type; return if there is none."""
    if not _notes(request).exists(_NOTE):
        return
    note = _notes(request).read_json(_NOTE)
    kinds = {kind.__name__: kind for kind in _FINAL}
    raise kinds[note["kind"]](note["message"]) from None


def _notes(request: Request) -> Folder:
    return Folder.at(str(request.out / "ray"))


def _rank() -> int:
    rank: int = ray.train.get_context().get_world_rank()
    return rank


def _preempted() -> StopCheck:
    """Request a checkpoint once, when a machine of the run is about to be pre-empted.

    Not a stop: Ray takes a loop that returns for finished, and restarts one that is killed.
    """
    told = False

    def stop_check() -> StopRequest:
        nonlocal told
        coming = ray.train.get_preemption_info() is not None
        asked = StopRequest.SAVE if coming and not told else StopRequest.GO_ON
        told = told or coming
        return asked

    return stop_check
