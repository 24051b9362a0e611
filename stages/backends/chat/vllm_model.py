"""A chat model by vLLM in this process: for actors that hold a GPU and no server beside them.

Thin on purpose. vLLM pins its own torch and needs a GPU, so none of this runs on a laptop: what can
go wrong elsewhere (reading replies, repair, prompts) is shared with the backend of URLs, and tested
there. Written against the source of vLLM 0.33.0.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import vllm
from vllm.lora.request import LoRARequest
from vllm.sampling_params import StructuredOutputsParams

from schemas.records import Reason
from stages.backends.chat.replies import Completion, converse, json_schema, openai_messages
from stages.backends.weights.checkpoints import Checkpoint, CheckpointError, locate
from stages.backends.weights.torch_device import place
from stages.base import Device
from stages.language.chat import Answer, Form, Reply, Request, Unanswered

if TYPE_CHECKING:
    from stages.backends.chat.vllm import VllmChatSettings


class VllmChatModel:
    """Any model that vLLM serves, several images in a request, replies held to their schema."""

    def __init__(self, settings: VllmChatSettings, device: Device) -> None:
        """Start the engine on the GPU; ValueError without one, CheckpointError without a model."""
        self.settings = settings
        self._counts: dict[str, float] = {}
        self._lora: LoRARequest | None = None

        place(device)
        base, *adapters = settings.checkpoints()
        lora: dict[str, Any] = {}
        for adapter in adapters:
            folder = locate(adapter)
            lora = {"enable_lora": True, "max_lora_rank": _rank(folder, adapter)}
            self._lora = LoRARequest(lora_name="adapter", lora_int_id=1, lora_path=str(folder))
        self._llm = vllm.LLM(
            model=str(locate(base)),
            dtype=device.dtype,
            quantization=settings.quantization,
            tensor_parallel_size=settings.tensor_parallel,
            gpu_memory_utilization=settings.gpu_memory,
            max_model_len=settings.max_model_len,
            limit_mm_per_prompt={"image": settings.images_per_request},
            mm_processor_kwargs=settings.mm_processor_kwargs or None,
            seed=0,
            **lora,
        )
        self._open = True

    def close(self) -> None:
        """End the engine and its processes; safe to call twice."""
        if self._open:
            self._open = False
            self._llm.llm_engine.engine_core.shutdown()

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
            chat_template_kwargs=self.settings.chat_template_kwargs or None,
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
