"""Saves and loads weights and optimizer state; files are whole, also if processes hold shards.

A checkpoint's folder holds the trained weights as transformers and peft read them (`weights/`: an
adapter, or a whole model) and `optimizer.safetensors`. Neither depends on the number of processes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from trainer.errors import CheckpointFileError
from trainer.model.processes import Processes

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

WEIGHTS = "weights"
OPTIMIZER = "optimizer.safetensors"
_ADAPTER = "default"


def is_adapter(policy: nn.Module) -> bool:
    """Whether the policy is a model with adapters, of which only those are saved."""
    return hasattr(policy, "peft_config")


def gather_weights(policy: nn.Module, *, keep: bool) -> dict[str, Tensor]:
    """What trains, or the whole model where it is not an adapter, on the CPU.

    All processes call it, for the parts that each holds; those that do not `keep` get nothing, as
    a machine has not the memory for a copy a process.
    """
    only_trainable = is_adapter(policy)
    trains = {name for name, p in policy.named_parameters() if p.requires_grad}
    return {
        name: whole
        for name, tensor in policy.state_dict(keep_vars=True).items()
        if name in trains or not only_trainable
        if (whole := _whole(tensor, keep=keep)) is not None
    }


def gather_optimizer(
    policy: nn.Module, optimizer: torch.optim.Optimizer, *, keep: bool
) -> dict[str, Tensor]:
    """Every state tensor as `name:key`, on the CPU; called and kept as `gather_weights`."""
    return {
        f"{name}:{key}": whole
        for name, parameter in policy.named_parameters()
        for key, value in optimizer.state.get(parameter, {}).items()
        if (whole := _whole(value, keep=keep)) is not None
    }


def save_weights(
    folder: Path, policy: PreTrainedModel | PeftModel, weights: Mapping[str, Tensor]
) -> None:
    """Write `weights/` of a checkpoint or of the finished run."""
    # Safetensors refuses two names for one tensor; `save_pretrained` knows which are tied.
    policy.save_pretrained(folder / WEIGHTS, state_dict=dict(weights))
    # peft writes a form with blanks for a person to fill in; the run's own card stands beside it.
    (folder / WEIGHTS / "README.md").unlink(missing_ok=True)


def save_optimizer(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write the optimizer's state."""
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / OPTIMIZER)


def load_adapter(folder: Path, policy: PeftModel) -> None:
    """Put a checkpoint's adapter into a policy made alike; CheckpointFileError if it is not.

    A whole model needs nothing of the kind: it is loaded from `weights/` in the first place.
    """
    from peft import set_peft_model_state_dict  # noqa: PLC0415  2 s, for adapters alone

    weights = load_file(folder / WEIGHTS / "adapter_model.safetensors")
    trainable = sum(parameter.requires_grad for parameter in policy.parameters())
    result = set_peft_model_state_dict(policy, weights, adapter_name=_ADAPTER)
    if result.unexpected_keys or len(weights) != trainable:
        raise CheckpointFileError(
            f"the adapter in {folder} has {len(weights)} tensors, the model wants {trainable}; "
            "was it made from another model?"
        )


def load_optimizer(
    folder: Path, policy: nn.Module, optimizer: torch.optim.Optimizer, processes: Processes
) -> None:
    """Put the saved state into an optimizer that has made no step yet.

    All processes call it. The first one reads the tensors and sends them, one at a time: together
    they are twice the model.
    """
    trainable = {name: p for name, p in policy.named_parameters() if p.requires_grad}
    with safe_open(folder / OPTIMIZER, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118  no mapping
            owner, _, key = name.rpartition(":")
            if owner not in trainable:
                raise CheckpointFileError(
                    f"{folder / OPTIMIZER} has state for {owner}, which is not trained here; "
                    "was it made with other settings?"
                )
            parameter, shape = trainable[owner], file.get_slice(name).get_shape()
            if not shape or processes.first:
                tensor = file.get_tensor(name)
            else:  # moments are in the type of their parameter
                tensor = torch.empty(shape, dtype=parameter.dtype)
            # AdamW counts its steps in a tensor without axes, which stays on the CPU.
            placed = _alike(tensor, parameter, processes) if shape else tensor
            optimizer.state.setdefault(parameter, {})[key] = placed


def _whole(tensor: Tensor, *, keep: bool) -> Tensor | None:
    if isinstance(tensor, DTensor):
        tensor = tensor.full_tensor()
    return tensor.detach().cpu() if keep else None


def _alike(tensor: Tensor, parameter: Tensor, processes: Processes) -> Tensor:
    """The first process's tensor where and as the parameter is: on its device, or split."""
    if isinstance(parameter, DTensor):
        mesh = parameter.device_mesh
        return distribute_tensor(tensor.to(mesh.device_type), mesh, parameter.placements)
    tensor = tensor.to(parameter.device)
    if processes.world > 1:
        dist.broadcast(tensor, src=0)
    return tensor
