"""One process or many: ranks and collectives.

`accelerate launch`, `torchrun` or Ray Train starts the processes, or there is just one; accelerate
finds out which.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from accelerate import PartialState
from accelerate.utils import gather_object

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
