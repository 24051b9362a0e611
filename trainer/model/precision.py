"""Types of numbers by the names that settings give them."""

from __future__ import annotations

from contextlib import AbstractContextManager

import torch

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def precision(compute: str, device: torch.device) -> AbstractContextManager[None]:
    """While inside, matrix products are taken in `compute`, whatever the weights are in.

    What is delicate (softmax, norms, log-probs) stays in float32 where it is.
    """
    return torch.autocast(device.type, DTYPES[compute], enabled=compute != "float32")
