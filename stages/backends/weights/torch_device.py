"""From a placement's `Device` to torch's, and what every open model of torch shares."""

from __future__ import annotations

import torch

from stages.base import Device


def place(device: Device) -> tuple[torch.device, torch.dtype]:
    """The torch device and type of a `Device`; ValueError if the device is not there.

    There is no fall-back to the CPU: a run that was to take an hour would take a month.
    """
    dtype: torch.dtype = getattr(torch, device.dtype)
    where = torch.device(device.name)
    if where.type == "cuda":
        if not torch.cuda.is_available():
            build = "built without CUDA" if torch.version.cuda is None else "sees no GPU"
            raise ValueError(
                f"the placement asks for {device.name}, but this torch {torch.__version__} "
                f"{build}; use a placement with device: cpu, or a CUDA build on a machine with GPUs"
            )
        if where.index is not None and where.index >= torch.cuda.device_count():
            raise ValueError(
                f"the placement asks for {device.name}, but there are {torch.cuda.device_count()} "
                "GPUs"
            )
    return where, dtype


def free(device: torch.device) -> None:
    """Give cached GPU memory back, after the last reference to a model is gone."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


class TorchModel:
    """Base of open models: where they are, and how they leave."""

    def __init__(self, device: Device) -> None:
        """ValueError if the device is not there."""
        self.where, self.dtype = place(device)

    def close(self) -> None:
        """Free the device; safe to call twice, and nothing can be asked of the model after it."""
        where = vars(self).get("where")
        vars(self).clear()  # the last references to the weights
        if where is not None:
            free(where)
