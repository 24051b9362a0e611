"""A chat model by vLLM in this process: for actors that hold a GPU and no server beside them.

Thin on purpose. vLLM pins its own torch and needs a GPU, so none of this runs on a laptop: what can
go wrong elsewhere (reading replies, repair, prompts) is shared with the backend of URLs, and tested
there. Written against the source of vLLM 0.33.0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt, Le

from stages.backends.weights.checkpoints import Checkpoint
from stages.base import OPERATIONAL, Device, Settings

if TYPE_CHECKING:
    from stages.backends.chat.vllm_model import VllmChatModel


@dataclass(frozen=True)
class VllmChatSettings(Settings):
    """Any model that vLLM serves, several images in a request, replies held to their schema."""

    name: Literal["vllm_chat"] = "vllm_chat"
    """Selects this backend."""
    model: str = "Qwen/Qwen3-VL-8B-Instruct"
    """Hub id or folder."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    adapter: str | None = None
    """Hub id or folder of a LoRA adapter, for samples of a model in training."""
    adapter_revision: str | None = None
    """Branch, tag or commit of the adapter."""
    quantization: str | None = None
    """As vLLM names it: "fp8"; None takes the weights as they are."""
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)
    """Settings of the model's chat template: {"enable_thinking": false}."""
    mm_processor_kwargs: dict[str, Any] = field(default_factory=dict)
    """Settings of its image processor: {"max_pixels": 1003520}."""
    max_model_len: Annotated[int, Ge(1)] = 16384
    """Longest conversation in tokens, images included; a longer one is an error of its row."""
    images_per_request: Annotated[int, Ge(1)] = field(default=2, metadata=OPERATIONAL)
    """Most images in one request; memory is set aside for them."""
    tensor_parallel: Annotated[int, Ge(1)] = field(default=1, metadata=OPERATIONAL)
    """GPUs that share the weights; as many as the placement gives the actor."""
    gpu_memory: Annotated[float, Gt(0), Le(1)] = field(default=0.9, metadata=OPERATIONAL)
    """Share of each GPU's memory for weights and cache; less if other stages share the actor."""

    def checkpoints(self) -> Sequence[Checkpoint]:
        """The model and its adapter."""
        found = [Checkpoint(self.model, self.revision)]
        if self.adapter is not None:
            found.append(Checkpoint(self.adapter, self.adapter_revision))
        return found

    def load(self, device: Device) -> VllmChatModel:
        """Start the engine on the GPU; ValueError without one, CheckpointError without a model."""
        if device.name != "cuda":
            raise ValueError(
                f"{self.name} runs on the GPUs that the actor was given (device: cuda), not on "
                f"{device.name}; name an endpoint with openai_chat, or give its group a GPU"
            )
        try:
            from stages.backends.chat.vllm_model import VllmChatModel
        except ImportError:
            raise ValueError(
                f"{self.name} needs vLLM, which is not installed here; pip install 'nearmiss[vllm]'"
            ) from None
        return VllmChatModel(self, device)
