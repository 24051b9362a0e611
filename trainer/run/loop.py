"""One optimizer step: micro-batches, loss, gradient, update. Knows no files and no model family."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor, nn

from schemas.ids import row_seed
from trainer.data.batches import Batch
from trainer.data.order import MicroBatch, Order
from trainer.errors import NonFiniteLossError
from trainer.losses import LogProbs, PreferenceLoss
from trainer.model.precision import precision
from trainer.model.processes import Processes
from trainer.model.token_kl import token_kl
from trainer.model.wrapped import total_norm, without_exchange
from trainer.run.schedule import learning_rate
from trainer.run.stop import StopCheck, StopRequest, nothing
from trainer.settings import Settings

NAMED_ROWS = 16
"""Rows that an error message names at most."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """Result of a step, equal on all processes."""

    sums: dict[str, float]
    """The loss and its metrics, summed over the step's rows."""
    rows: int
    """Rows of the step, over all processes."""
    norm: float
    """Norm of the gradient before clipping."""
    rate: float
    """The learning rate."""
    asked: StopRequest
    """The strongest request of any process."""


@dataclass
class Loop:
    """All that a step needs."""

    settings: Settings
    """The run's settings."""
    processes: Processes
    """Who else takes part."""
    order: Order
    """Which rows a step shows."""
    num_steps: int
    """Steps of the whole run."""
    id_of: Callable[[int], str]
    """Row number to pair id, for messages."""
    module: nn.Module
    """Batch -> log-probs by view, wrapped for the exchange of gradients."""
    reference: Callable[[Batch], LogProbs]
    """The reference's log-probs of a batch, without gradient."""
    optimizer: torch.optim.Optimizer
    """Over the trainable parameters."""
    stop_check: StopCheck = nothing
    """What this process was asked to do after the step."""

    @property
    def loss(self) -> PreferenceLoss:
        """What is minimised."""
        return self.settings.loss

    def step(self, step: int, batches: Iterable[tuple[MicroBatch, Batch]]) -> StepResult:
        """Do the step of this number (from 0) over its micro-batches.

        Raises NonFiniteLossError on all processes, before the weights are touched.
        """
        rate = learning_rate(self.settings.optimizer, step, self.num_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        size = self.order.size_of(step)
        # Gradients are averaged over processes; their sum is what one process would have.
        weight = self.processes.world / size
        sums: dict[str, Tensor] = {}
        done: list[tuple[MicroBatch, Tensor]] = []
        for micro, batch in batches:
            with nullcontext() if micro.last else without_exchange(self.module):
                per_row, metrics = self._forward(micro, batch)
                torch.autograd.backward(per_row.sum() * (weight if micro.counted else 0.0))
            done.append((micro, per_row.detach()))
            for name, values in {"loss": per_row.detach(), **metrics}.items():
                # Kept on the device: reading a number would wait for the device every time.
                total = values.double().sum() if micro.counted else values.new_zeros(())
                sums[name] = sums[name] + total if name in sums else total
        bad = self._not_finite(done)
        asked = self.stop_check()
        *totals, num_bad, num_save, num_stop = self.processes.sum(
            [
                *(float(x) for x in sums.values()),
                float(len(bad)),
                float(asked is StopRequest.SAVE),
                float(asked is StopRequest.STOP),
            ]
        )
        if num_bad:
            self._refuse(step, bad, "the loss")
        norm = self._update(step, [r for micro, _ in done if micro.counted for r in micro.rows])
        asked = (
            StopRequest.STOP if num_stop else StopRequest.SAVE if num_save else StopRequest.GO_ON
        )
        return StepResult(dict(zip(sums, totals, strict=True)), size, norm, rate, asked)

    def _not_finite(self, done: Sequence[tuple[MicroBatch, Tensor]]) -> list[str]:
        """Pair ids of the rows of this process whose loss is NaN or infinite."""
        bad = []
        for micro, per_row in done:
            finite = torch.isfinite(per_row).tolist() if micro.counted else ()
            bad += [self.id_of(r) for r, ok in zip(micro.rows, finite, strict=False) if not ok]
        return bad

    def _forward(self, micro: MicroBatch, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        # Dropout draws from the global generators; a seed by position makes a resumed run draw
        # the same, and leaves no generator's state to save.
        torch.manual_seed(
            row_seed(
                self.settings.seed,
                f"step {micro.step} of {self.order.rank}",
                "dropout",
                micro.index,
            )
        )
        batch = batch.to(self.processes.device)
        with precision(self.settings.compute, self.processes.device):
            # The policy first: FSDP records in its first forward which parameters are trained, and
            # peft freezes adapters while they are off.
            policy = self.module(batch)
            reference = self.reference(batch) if self.loss.reference_views else {}
            if batch.exchange.hidden:
                policy = {**policy, **token_kl(batch)}
        output = self.loss(policy, reference)
        return output.per_row, output.metrics

    def _update(self, step: int, rows: Sequence[int]) -> float:
        """Clip the gradient and update the weights; returns the norm before clipping.

        `rows` are those of this process.
        """
        trainable = [p for p in self.module.parameters() if p.grad is not None]
        norm = total_norm(trainable)
        length = float(norm)
        if not math.isfinite(length):
            self._refuse(step, [self.id_of(r) for r in rows], "the gradient")
        if self.settings.optimizer.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(trainable, self.settings.optimizer.clip_norm, norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return length

    def _refuse(self, step: int, bad: Sequence[str], what: str) -> NoReturn:
        """Raise on all processes, naming the rows of all; all of them must call it."""
        everywhere = self.processes.gather(list(bad))
        named = ", ".join(everywhere[:NAMED_ROWS])
        more = f" and {len(everywhere) - NAMED_ROWS} more" if len(everywhere) > NAMED_ROWS else ""
        raise NonFiniteLossError(
            f"{what} of step {step + 1} is not finite; rows: {named}{more}. "
            "The weights are unchanged; look at these rows (`python -m pipeline show RUN PAIR_ID`) "
            "or lower optimizer.learning_rate"
        )
