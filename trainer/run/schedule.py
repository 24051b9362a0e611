"""The learning rate as a function of the step, so it has no state to save."""

from __future__ import annotations

import math

from trainer.settings import Optimizer


def learning_rate(optimizer: Optimizer, step: int, num_steps: int) -> float:
    """The rate of a step, counted from 0, in a run of `num_steps`.

    The warmup rises in equal parts to the full rate, which its last step has; unlike in
    transformers' schedules no step is wasted on a rate of 0. What follows falls towards 0, which
    the step after the last would have.
    """
    warmup = math.ceil(optimizer.warmup * num_steps)
    if step < warmup:
        return optimizer.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, num_steps - warmup)
    match optimizer.schedule:
        case "cosine":
            factor = 0.5 * (1 + math.cos(math.pi * done))
        case "linear":
            factor = 1 - done
        case "constant":
            factor = 1.0
    return optimizer.learning_rate * factor
