"""The same run on a Ray cluster: Ray Train starts the processes, and starts them again.

    ray job submit --working-dir . -- python -m trainer train ... --ray-workers 8

Checkpoints are the run's own, in its folder, which all nodes mount. After a lost worker Ray starts
all of them again, and they go on from the newest one; so nothing is handed to Ray but metrics.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import ray.train
import ray.train.torch

from trainer.errors import CheckpointError, NonFiniteLossError, UsageError
from trainer.loop import StepResult
from trainer.run_folder import RunFolder
from trainer.stop import Wish, Wished
from trainer.train import Outcome, Request, train

log = logging.getLogger(__name__)

MAX_FAILURES = 3
"""Lost workers that a run gets over; a fault that comes back must end. Machines that are taken
away (pre-emption) do not count."""
_REQUEST = "request"


@dataclass
class _Reports:
    """A `Monitor` that says a line a step where Ray collects logs."""

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
    """Train on so many workers of the cluster, each with a GPU where the settings say so.

    Raises RuntimeError with what a worker raised, at once where a new start would not help, else
    when workers were lost more than `MAX_FAILURES` times.
    """
    gpu = request.settings.machine.device == "cuda"
    _refusal(request).unlink(missing_ok=True)
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
    try:
        trainer.fit()
    except ray.train.TrainingFailedError as error:
        if _refusal(request).is_file():
            raise RuntimeError(_refusal(request).read_text("utf-8")) from None
        raise RuntimeError(f"the workers failed: {error}") from error
    card = RunFolder(request.out).card()
    assert card is not None, "workers that end well have written what they did"
    return Outcome(card["num_steps"], card["num_steps"])


def _worker(config: dict[str, Any]) -> None:
    logging.basicConfig(level=logging.INFO if _rank() == 0 else logging.WARNING)
    request: Request = config[_REQUEST]
    refusal = _refusal(request)
    if refusal.is_file():
        raise UsageError(refusal.read_text("utf-8"))
    try:
        train(request, _Reports(request.settings.keep.log_every), _preempted())
    except (UsageError, NonFiniteLossError, CheckpointError) as error:
        # Ray would start everything again, to the same end; so the next start ends at once.
        refusal.parent.mkdir(parents=True, exist_ok=True)
        refusal.write_text(f"{type(error).__name__}: {error}", "utf-8")
        raise


def _refusal(request: Request) -> Path:
    """File that says why another start is of no use."""
    return request.out / "ray" / "refused.txt"


def _rank() -> int:
    rank: int = ray.train.get_context().get_world_rank()
    return rank


def _preempted() -> Wished:
    """A wish to save once, when a machine of the run is about to be taken away.

    Not to stop: for Ray a loop that returns is done, one that is cut off is started again.
    """
    told = False

    def wished() -> Wish:
        nonlocal told
        coming = ray.train.get_preemption_info() is not None
        wish = Wish.SAVE if coming and not told else Wish.GO_ON
        told = told or coming
        return wish

    return wished
