"""One run, from request to result: rows, model, steps, checkpoints. Resumes an interrupted run."""

from __future__ import annotations

import logging
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.data.batches import Batch
from trainer.data.dataset import numerics, open_dataset
from trainer.data.loader import steps
from trainer.data.order import Order
from trainer.errors import UsageError
from trainer.losses import LogProbs
from trainer.model.broadcast import read_once
from trainer.model.logprobs import shares_prompts
from trainer.model.policy import Policy, frozen_module, load_model, make_policy
from trainer.model.processes import Processes
from trainer.model.reference import (
    Fingerprint,
    Forward,
    ReferenceFile,
    adapters_off,
    check_fits_a_file,
    frozen,
)
from trainer.run.checkpoints import Checkpoints, Position, read_position
from trainer.run.loop import Loop
from trainer.run.recorder import Monitor, Recorder
from trainer.run.run_folder import CARD, RunFolder, versions
from trainer.run.stop import StopCheck, nothing
from trainer.settings import Lora, Settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """What to train, on what, and where to write it."""

    shards: tuple[str, ...]
    """Run folders of the pipeline: paths or URLs."""
    model: str
    """Hub id or folder of the model to start from."""
    settings: Settings
    """How to train it."""
    out: Path
    """Folder of the run, on a file system that all processes mount."""
    revision: str | None = None
    """Commit of the hub's model."""
    reference: Path | None = None
    """File with the reference's log-probs."""


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended."""

    step: int
    """Steps done, by this attempt and earlier ones."""
    num_steps: int
    """Steps of the run."""

    @property
    def complete(self) -> bool:
        """Whether all steps are done; if not, the same request resumes."""
        return self.step == self.num_steps


def train(request: Request, monitor: Monitor, stop_check: StopCheck = nothing) -> Outcome:
    """Train, or resume an interrupted run; every process calls it.

    Raises UsageError for what the user can correct, NonFiniteLossError, CheckpointFileError.
    """
    processes = Processes.start(request.settings.machine.device)
    folder = RunFolder(request.out)
    if processes.first:
        folder.path.mkdir(parents=True, exist_ok=True)
    with folder.locked() if processes.first else nullcontext():
        processes.wait()
        attempt = _Attempt(request, folder, processes, monitor)
        if folder.final.exists():
            log.info("%s is complete; nothing to do", folder.path)
            return Outcome(attempt.num_steps, attempt.num_steps)
        return attempt.run(stop_check)


@dataclass
class _Attempt:
    """One attempt at a run, on one of its processes."""

    request: Request
    folder: RunFolder
    processes: Processes
    monitor: Monitor

    def __post_init__(self) -> None:
        request = self.request
        self.dataset = open_dataset(
            request.shards, request.model, request.revision, request.settings
        )
        self.rows = self.dataset.rows
        self.num_steps = self.dataset.num_steps
        if self.processes.first:
            self.folder.claim(self._card())
        self.processes.wait()

    def run(self, stop_check: StopCheck) -> Outcome:
        """Train from the newest checkpoint to the end, or until a stop is requested."""
        settings = self.request.settings
        checkpoints = Checkpoints(self.folder.path / "checkpoints")
        newest = self.processes.from_first(lambda: _newest(checkpoints))
        position = self._position(newest)
        policy = make_policy(
            self.request.model, self.request.revision, settings, self.processes, newest
        )
        if self.processes.first:
            log.info("%s", policy.counts)
        loop = self._loop(policy, stop_check)
        build = replace(self.dataset.builder, share_prompts=shares_prompts(policy.model))
        flow = steps(
            self.rows,
            build,
            loop.order,
            start=position.step,
            stop=self.num_steps,
            workers=settings.machine.loader_workers,
            pin=self.processes.device.type == "cuda",
        )
        recorder = Recorder(
            self.folder,
            settings.keep,
            self.processes,
            policy,
            (self.request.model, self.request.revision),
            position,
            self.monitor,
        )
        with recorder, closing(flow):
            for step, batches in flow:
                epoch = (step + 1) / self.dataset.steps_per_epoch
                if recorder.step(step + 1, epoch, loop.step(step, batches)):
                    return Outcome(step + 1, self.num_steps)
        recorder.finish()
        return Outcome(self.num_steps, self.num_steps)

    def _card(self) -> dict[str, Any]:
        settings = self.request.settings
        return {
            "settings": settings.model_dump(mode="json"),
            "model": self.request.model,
            "revision": self.request.revision,
            "shards": list(self.request.shards),
            "rows": self.rows.digest,
            "num_rows": len(self.rows),
            "num_steps": self.num_steps,
            "versions": versions(),
        }

    def _position(self, newest: Path | None) -> Position:
        """The position of a checkpoint, or step 0 without one."""
        here = Position(
            step=0,
            num_steps=self.num_steps,
            num_rows=len(self.rows),
            settings=self.request.settings.digest,
            rows=self.rows.digest,
            sums={},
        )
        if newest is None:
            return here
        there = read_position(newest)
        if replace(there, step=0, sums={}) != here:
            raise UsageError(
                f"{newest} belongs to another run than {self.folder.path / CARD}; "
                "remove the checkpoint, or choose another --output"
            )
        return there

    def _loop(self, policy: Policy, stop_check: StopCheck) -> Loop:
        settings, processes = self.request.settings, self.processes
        order = Order(
            blocks=self.rows.blocks,
            batch_size=settings.batch_size,
            micro_batch=settings.machine.micro_batch,
            seed=settings.seed,
            window=settings.shuffle_window,
            rank=processes.rank,
            world=processes.world,
        )
        return Loop(
            settings=settings,
            processes=processes,
            order=order,
            num_steps=self.num_steps,
            id_of=self.rows.pair_id,
            module=policy.module,
            reference=self._reference(policy),
            optimizer=policy.optimizer,
            stop_check=stop_check,
        )

    def _reference(self, policy: Policy) -> Forward:
        """A file if one is given, else the policy with adapters off, else a second model."""
        request, settings = self.request, self.request.settings
        if not settings.loss.reference_views:
            return _none
        if request.reference is not None:
            check_fits_a_file(settings.loss)
            return ReferenceFile.open(
                request.reference,
                # It reads all weights.
                self.processes.from_first(
                    lambda: Fingerprint.of(
                        self.dataset.builder.family, request.revision, numerics(settings)
                    )
                ),
                views=settings.loss.views,
                pair_ids=self.rows.pair_ids,
                seed=settings.seed,
                epochs=self.dataset.epochs,
            )
        if isinstance(settings.tune, Lora):
            return adapters_off(policy.module, policy.model)

        def build(read: bool) -> PreTrainedModel:  # noqa: FBT001  as `read_once` asks
            kind = {"weights": settings.weights, "attention": settings.machine.attention}
            return load_model(request.model, request.revision, **kind, read=read)

        model = read_once(build, self.processes)
        return frozen(frozen_module(model, settings, self.processes))


def _newest(checkpoints: Checkpoints) -> Path | None:
    checkpoints.clear_remains()
    return checkpoints.newest_whole(set_aside=True)


def _none(batch: Batch) -> LogProbs:
    raise AssertionError(f"a loss that reads no reference asked for that of {batch.pair_ids}")
