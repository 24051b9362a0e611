"""Weights and optimizer state to files and back, whole, whoever holds which part of them.

A checkpoint's folder holds what learns in the form that transformers and peft read (`weights/`: an
adapter, or a whole model) and `optimizer.safetensors`. Neither depends on the number of processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from trainer.errors import CheckpointError

WEIGHTS = "weights"
OPTIMIZER = "optimizer.safetensors"
_ADAPTER = "default"


def is_adapter(learner: nn.Module) -> bool:
    """Whether the learner is a model with adapters, of which only those are saved."""
    return hasattr(learner, "peft_config")


def gather_weights(learner: nn.Module) -> dict[str, Tensor]:
    """What learns, or the whole model where it is no adapter, on the CPU; all processes call it."""
    only_learning = is_adapter(learner)
    wanted = {n for n, p in learner.named_parameters() if p.requires_grad or not only_learning}
    state = learner.state_dict(keep_vars=True)
    return {
        name: _whole(tensor)
        for name, tensor in state.items()
        if name in wanted or not only_learning
    }


def gather_optimizer(learner: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Every state tensor as `name:key`, on the CPU; all processes call it."""
    return {
        f"{name}:{key}": _whole(value)
        for name, parameter in learner.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def save_weights(folder: Path, learner: Any, weights: Mapping[str, Tensor]) -> None:
    """Write `weights/` of a checkpoint or of the finished run."""
    # Safetensors refuses two names for one tensor; `save_pretrained` knows which are tied.
    learner.save_pretrained(folder / WEIGHTS, state_dict=dict(weights))
    # peft writes a form with blanks for a person to fill in; the run's own card stands beside it.
    (folder / WEIGHTS / "README.md").unlink(missing_ok=True)


def save_optimizer(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write the optimizer's state."""
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / OPTIMIZER)


def load_adapter(folder: Path, learner: Any) -> None:
    """Put a checkpoint's adapter into a learner that was made alike; CheckpointError if it is not.

    A whole model needs nothing of the kind: it is loaded from `weights/` in the first place.
    """
    from peft import set_peft_model_state_dict  # noqa: PLC0415  2 s, for adapters alone

    weights = load_file(folder / WEIGHTS / "adapter_model.safetensors")
    learning = sum(parameter.requires_grad for parameter in learner.parameters())
    result = set_peft_model_state_dict(learner, weights, adapter_name=_ADAPTER)
    if result.unexpected_keys or len(weights) != learning:
        raise CheckpointError(
            f"the adapter in {folder} has {len(weights)} tensors, the model wants {learning}; "
            "was it made from another model?"
        )


def load_optimizer(folder: Path, learner: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put the saved state into an optimizer that has made no step yet; all processes call it."""
    by_name: dict[str, dict[str, Tensor]] = {}
    for name, tensor in load_file(folder / OPTIMIZER).items():
        parameter, _, key = name.rpartition(":")
        by_name.setdefault(parameter, {})[key] = tensor
    learning = {name: p for name, p in learner.named_parameters() if p.requires_grad}
    if foreign := sorted(set(by_name) - set(learning)):
        raise CheckpointError(
            f"{folder / OPTIMIZER} has state for {foreign[0]}, which does not learn here; "
            "was it made with other settings?"
        )
    for name, state in by_name.items():
        parameter = learning[name]
        optimizer.state[parameter] = {
            # AdamW counts its steps in a tensor without axes, which stays on the CPU.
            key: _alike(tensor, parameter) if tensor.ndim else tensor
            for key, tensor in state.items()
        }


def _whole(tensor: Tensor) -> Tensor:
    full = tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
    return full.detach().cpu()


def _alike(tensor: Tensor, parameter: Tensor) -> Tensor:
    """The tensor where and as the parameter is: on its device, or split as it is."""
    if isinstance(parameter, DTensor):
        mesh = parameter.device_mesh
        return distribute_tensor(tensor.to(mesh.device_type), mesh, parameter.placements)
    return tensor.to(parameter.device)
