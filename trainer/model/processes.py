"""One process or many: ranks, collectives, and the exchange of gradients.

`accelerate launch`, `torchrun` or Ray Train starts the processes, or there is just one; accelerate
finds out which. Weights are wrapped by torch itself, because accelerate shards on GPUs
only, and what no test can run on a CPU breaks unseen.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import gather_object
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

from trainer.errors import CheckpointFileError, UsageError

Result = TypeVar("Result")


@dataclass(frozen=True)
class Processes:
    """A process among its peers."""

    rank: int
    """Number of this process, from 0."""
    world: int
    """How many there are."""
    device: torch.device
    """Where this process computes."""

    @classmethod
    def start(cls, device: str) -> Processes:
        """Join the process group, if any; UsageError if the device is missing."""
        if device == "cuda" and not torch.cuda.is_available():
            raise UsageError(
                "the device is cuda, but torch sees no GPU; use a machine with one, or "
                "--set machine.device=cpu (evaluate: --device cpu)"
            )
        if os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true":
            raise UsageError(
                "accelerate's own sharding is not used here; launch without --use_fsdp and "
                "use --set machine.shard=true"
            )
        state = PartialState(cpu=device == "cpu")
        return cls(state.process_index, state.num_processes, state.device)

    @property
    def first(self) -> bool:
        """Whether this is the process that writes files and logs."""
        return self.rank == 0

    def sum(self, numbers: list[float]) -> list[float]:
        """Element by element over all processes, in float64; equal on all of them."""
        if self.world == 1:
            return numbers
        tensor = torch.tensor(numbers, dtype=torch.float64, device=self.device)
        dist.all_reduce(tensor)
        return [float(x) for x in tensor.tolist()]

    def gather(self, items: list[Any]) -> list[Any]:
        """The items of all processes, by rank, on all of them."""
        if self.world == 1:
            return items
        found: list[Any] = gather_object(items)
        return found

    def from_first(self, action: Callable[[], Result]) -> Result:
        """What `action` returns or raises on the first process, on all of them."""
        said: list[tuple[Result | None, Exception | None]] = []
        if self.first:
            try:
                said = [(action(), None)]
            except (UsageError, CheckpointFileError) as error:
                said = [(None, error)]
            except Exception as error:  # noqa: BLE001  raised below, here and everywhere
                # Not every error of a library travels.
                said = [(None, RuntimeError(f"{type(error).__name__}: {error}"))]
        ((result, failure),) = self.gather(said)
        if failure is not None:
            raise failure
        return cast("Result", result)

    def wait(self) -> None:
        """Wait for all processes."""
        if self.world > 1:
            dist.barrier()


def leave() -> None:
    """Leave the process group, at the end of a command that joined it."""
    if dist.is_initialized():
        dist.destroy_process_group()


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
        for part in module.modules():
            if type(part).__name__ in names:
                fully_shard(part, mesh=mesh, mp_policy=policy)
        fully_shard(module, mesh=mesh, mp_policy=policy)
        return module.to(device)
    module = module.to(device)
    if processes.world == 1:
        return module
    return DistributedDataParallel(
        module,
        device_ids=[device] if device.type == "cuda" else None,
        broadcast_buffers=False,
        find_unused_parameters=may_be_unused,
    )


def without_exchange(module: nn.Module) -> AbstractContextManager[None]:
    """Accumulate gradients on this process while more micro-batches of the step follow.

    Sharded modules exchange them every time, because whole gradients would not fit.
    """
    if isinstance(module, DistributedDataParallel):
        return module.no_sync()
    return nullcontext()


def unwrapped(module: nn.Module) -> nn.Module:
    """The module that `wrap` was given."""
    return module.module if isinstance(module, DistributedDataParallel) else module


def total_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """Norm of all gradients as one vector, over all shards: a scalar."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    full = getattr(norm, "full_tensor", None)
    return norm if full is None else full()


def is_sharded(module: nn.Module) -> bool:
    """Whether `wrap` has split the module's weights over the processes."""
    return isinstance(module, FSDPModule)
