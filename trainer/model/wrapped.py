"""A module whose gradients are exchanged, and whose weights may be split over the processes.

By torch itself, because accelerate shards on GPUs only, and what no test can run on a CPU breaks
unseen.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

from trainer.errors import UsageError
from trainer.model.broadcast import send_parts, send_whole
from trainer.model.processes import Processes


def wrap(
    module: nn.Module,
    processes: Processes,
    *,
    shard: bool,
    layers: Iterable[str],
    compute: torch.dtype,
    may_be_unused: bool,
) -> nn.Module:
    """The module on its device, averaging gradients over the processes.

    On all processes the weights are those of the first one; the others may hold none before.
    `layers` are class names of the blocks that are sharded one by one. `may_be_unused` says that
    some trainable weights may get no gradient in a step, as the last block of a LLaVA's tower.
    """
    device = processes.device
    if shard:
        if not dist.is_initialized():
            raise UsageError(
                "machine.shard needs several processes; start them with torchrun, accelerate "
                "launch or --ray-workers"
            )
        names = frozenset(layers)
        policy = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32)
        mesh = dist.device_mesh.init_device_mesh(device.type, (processes.world,))

        def split(module: nn.Module) -> None:
            for part in module.modules():
                if type(part).__name__ in names:
                    fully_shard(part, mesh=mesh, mp_policy=policy)
            fully_shard(module, mesh=mesh, mp_policy=policy)

        return send_parts(module, split, processes)
    module = send_whole(module, processes)
    if processes.world == 1:
        return module
    return DistributedDataParallel(
        module,
        device_ids=[device] if device.type == "cuda" else None,
        broadcast_buffers=False,
        init_sync=False,
        find_unused_parameters=may_be_unused,
    )


def without_exchange(module: nn.Module) -> AbstractContextManager[None]:
    """Accumulate gradients on this process while more micro-batches of the step follow.

    Sharded modules exchange them every time, because whole gradients would not fit.
    """
    if isinstance(module, DistributedDataParallel):
        return module.no_sync()
    return nullcontext()


def total_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Norm of all gradients as one vector, over all shards: a scalar."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    full = getattr(norm, "full_tensor", None)
    return norm if full is None else full()
