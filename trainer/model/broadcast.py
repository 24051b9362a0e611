"""One process reads a model's weights and sends them to the others. Knows no files and no families.

The others build the model on torch's meta device, where tensors have shapes and no content, so that
a machine with eight processes holds a large model once, not eight times. Whole tensors travel one
at a time.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

from trainer.model.processes import Processes

Module = TypeVar("Module", bound=nn.Module)

_Places = list[tuple[nn.Module, str]]


def read_once(build: Callable[[bool], Module], processes: Processes) -> Module:
    """What `build` makes: with weights on the first process, on the meta device on the others.

    `build` is told whether it is to read weights; what it raises then is raised on all processes.
    """
    made: list[Module] = []
    processes.from_first(lambda: made.append(build(True)))  # noqa: FBT003  the only argument
    return made[0] if made else build(False)  # noqa: FBT003


def send_whole(module: Module, processes: Processes) -> Module:
    """The module on every process's device with the first one's weights, after `read_once`."""
    if processes.world == 1:
        return module.to(processes.device)
    tied = _tied(module)
    if processes.first:
        module = module.to(processes.device)
    else:
        module = module.to_empty(device=processes.device)
    _tie(tied)
    for tensor in (*module.parameters(), *module.buffers()):
        dist.broadcast(tensor.detach(), src=0)
    return module


def send_parts(module: Module, split: Callable[[Module], None], processes: Processes) -> Module:
    """The module, split by `split` and on every process's device, with the first one's weights.

    `split` is given the module on the meta device (`fully_shard` on all that is to be split).
    """
    tied = _tied(module)
    weights: dict[str, Any] = {}
    buffers: dict[str, Tensor] = {}
    if processes.first:
        weights = {name: tensor.detach() for name, tensor in module.state_dict().items()}
        buffers = dict(module.named_buffers())
        _empty(module, tied)
    split(module)
    module = module.to_empty(device=processes.device)
    _tie(tied)
    set_model_state_dict(
        module, weights, options=StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)
    )
    # Those of which the state is no part: tables of frequencies, which from_pretrained computes.
    for name, buffer in module.named_buffers():
        if processes.first:
            buffer.copy_(buffers[name])
        dist.broadcast(buffer, src=0)
    return module


def _tied(module: nn.Module) -> list[_Places]:
    """For every parameter the modules and names under which it stands, mostly one."""
    found: dict[int, _Places] = {}
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            found.setdefault(id(parameter), []).append((part, name))
    return list(found.values())


def _tie(tied: list[_Places]) -> None:
    """Make one parameter again of those that moving made several of."""
    for (first, name), *others in tied:
        for part, other in others:
            setattr(part, other, getattr(first, name))


def _empty(module: nn.Module, tied: list[_Places]) -> None:
    """Leave shapes alone."""
    for places in tied:
        old = getattr(*places[0])
        new = nn.Parameter(torch.empty_like(old, device="meta"), requires_grad=old.requires_grad)
        for part, name in places:
            setattr(part, name, new)
    for part in module.modules():
        for name, buffer in part.named_buffers(recurse=False):
            setattr(part, name, torch.empty_like(buffer, device="meta"))
