"""A vision-language model in this process, with a LoRA adapter where one is trained: for samples.

Slower than vLLM, and nothing holds its replies to a schema but words; it needs nothing else than
transformers, and takes any adapter that peft does. Every row draws from its own seed, so a sample
does not depend on the rows beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge

from stages.backends.weights.checkpoints import Checkpoint
from stages.base import OPERATIONAL, Device, Settings

if TYPE_CHECKING:
    from stages.backends.chat.transformers_model import TransformersChatModel


@dataclass(frozen=True)
class TransformersChatSettings(Settings):
    """Any image-text-to-text model of the transformers library."""

    name: Literal["transformers_chat"] = "transformers_chat"
    """Selects this backend."""
    model: str = "llava-hf/llava-1.5-7b-hf"
    """Hub id or folder; of OViP's experiments, the model that is to be trained."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    adapter: str | None = None
    """Hub id or folder of a LoRA adapter: the model as it is at this point of its training."""
    adapter_revision: str | None = None
    """Branch, tag or commit of the adapter."""
    micro_batch: Annotated[int, Ge(1)] = field(default=8, metadata=OPERATIONAL)
    """Replies written at once."""

    def checkpoints(self) -> Sequence[Checkpoint]:
        """The model and its adapter."""
        found = [Checkpoint(self.model, self.revision)]
        if self.adapter is not None:
            found.append(Checkpoint(self.adapter, self.adapter_revision))
        return found

    def load(self, device: Device) -> TransformersChatModel:
        """Load the model, its processor and the adapter; CheckpointError where one does not fit."""
        from stages.backends.chat.transformers_model import TransformersChatModel

        return TransformersChatModel(self, device)
