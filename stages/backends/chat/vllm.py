"""A chat model by vLLM in this process: for actors that hold a GPU and no server beside them.

Thin on purpose. vLLM pins its own torch and needs a GPU, so none of this runs on a laptop: what can
go wrong elsewhere (reading replies, repair, prompts) is shared with the backend of URLs, and tested
there. Written against the source of vLLM 0.33.0.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Gt, Le

from schemas.records import Reason
from stages.backends.chat.replies import Completion, converse, json_schema, openai_messages
from stages.backends.weights.checkpoints import Checkpoint, CheckpointError, locate
from stages.base import OPERATIONAL, Device
from stages.language.chat import Answer, Form, Reply, Request, Unanswered


@dataclass
class VllmChat:
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

    _llm: Any = field(default=None, init=False, repr=False, compare=False)
    _lora: Any = field(default=None, init=False, repr=False, compare=False)
    _counts: dict[str, float] = field(default_factory=dict, init=False, repr=False, compare=False)

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    def checkpoints(self) -> Sequence[Checkpoint]:
        """The model and its adapter."""
        found = [Checkpoint(self.model, self.revision)]
        if self.adapter is not None:
            found.append(Checkpoint(self.adapter, self.adapter_revision))
        return found

    def open(self, device: Device) -> None:
        """Start the engine on the GPU; ValueError without one, CheckpointError without a model."""
        if device.name != "cuda":
            raise ValueError(
                f"{self.name} runs on the GPUs that the actor was given (device: cuda), not on "
                f"{device.name}; name an endpoint with openai_chat, or give its group a GPU"
            )
        try:
            import vllm
            from vllm.lora.request import LoRARequest
        except ImportError:
            raise ValueError(
                f"{self.name} needs vLLM, which is not installed here; pip install 'nearmiss[vllm]'"
            ) from None
        from stages.backends.weights.torch_device import place

        place(device)
        base, *adapters = self.checkpoints()
        lora: dict[str, Any] = {}
        for adapter in adapters:
            folder = locate(adapter)
            lora = {"enable_lora": True, "max_lora_rank": _rank(folder, adapter)}
            self._lora = LoRARequest(lora_name="adapter", lora_int_id=1, lora_path=str(folder))
        self._llm = vllm.LLM(
            model=str(locate(base)),
            dtype=device.dtype,
            quantization=self.quantization,
            tensor_parallel_size=self.tensor_parallel,
            gpu_memory_utilization=self.gpu_memory,
            max_model_len=self.max_model_len,
            limit_mm_per_prompt={"image": self.images_per_request},
            mm_processor_kwargs=self.mm_processor_kwargs or None,
            seed=0,
            **lora,
        )

    def close(self) -> None:
        """End the engine and its processes."""
        llm, self._llm, self._lora = self._llm, None, None
        if llm is not None:
            llm.llm_engine.engine_core.shutdown()

    def chat(self, requests: Sequence[Request[Answer]]) -> list[Reply[Answer] | Unanswered]:
        """One result per request, in order."""
        return converse(requests, self._complete)

    def usage(self) -> Mapping[str, float]:
        """As `stages.base.Metered` names it."""
        return dict(self._counts)

    def _complete(self, requests: Sequence[Request[Any]]) -> list[Completion | Unanswered]:
        if not requests:
            return []
        outputs = self._llm.chat(
            [openai_messages(request.messages) for request in requests],
            sampling_params=[_sampling_params(request) for request in requests],
            use_tqdm=False,
            lora_request=self._lora,
            chat_template_kwargs=self.chat_template_kwargs or None,
        )
        return [self._completion(output) for output in outputs]

    def _completion(self, output: Any) -> Completion | Unanswered:
        """The one reply of a `vllm.RequestOutput`."""
        (reply,) = output.outputs
        completion = Completion(
            text=reply.text,
            refusal=None,
            cut_off=reply.finish_reason == "length",
            prompt_tokens=len(output.prompt_token_ids or ()),
            completion_tokens=len(reply.token_ids),
        )
        for name, number in (
            ("requests", 1),
            ("prompt_tokens", completion.prompt_tokens),
            ("completion_tokens", completion.completion_tokens),
        ):
            self._counts[name] = self._counts.get(name, 0) + number
        if reply.finish_reason in ("stop", "length"):
            return completion
        why = f"vLLM ended the reply with {reply.finish_reason!r}"
        return Unanswered(Reason.REQUEST_FAILED, why, reply.text)


def _sampling_params(request: Request[Any]) -> Any:
    import vllm
    from vllm.sampling_params import StructuredOutputsParams

    held = None
    if issubclass(request.answer, Form):
        held = StructuredOutputsParams(json=json_schema(request.answer))
    return vllm.SamplingParams(
        temperature=request.sampling.temperature,
        top_p=request.sampling.top_p,
        max_tokens=request.sampling.max_tokens,
        seed=request.seed & 0x7FFFFFFF,
        structured_outputs=held,
    )


def _rank(folder: Path, adapter: Checkpoint) -> int:
    """The rank of a LoRA adapter, for which vLLM sets memory aside."""
    try:
        config = json.loads((folder / "adapter_config.json").read_text("utf-8"))
        rank = int(config["r"])
    except (OSError, ValueError, KeyError, TypeError):
        raise CheckpointError(
            f"{adapter}: {folder} has no adapter_config.json with a rank; is it a LoRA adapter?"
        ) from None
    # The sizes that vLLM has kernels for.
    sizes = (1, 8, 16, 32, 64, 128, 256, 320, 512)
    for size in sizes:
        if rank <= size:
            return size
    raise CheckpointError(f"{adapter} has rank {rank}; vLLM takes at most {sizes[-1]}")
