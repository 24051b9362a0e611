"""A vision-language model in this process, with a LoRA adapter where one is trained: for samples.

Slower than vLLM, and nothing holds its replies to a schema but words; it needs nothing else than
transformers, and takes any adapter that peft does. Every row draws from its own seed, so a sample
does not depend on the rows beside it.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import PIL.Image
import torch
from transformers import (
    AutoImageProcessor,
    AutoModelForImageTextToText,
    AutoProcessor,
    GenerationConfig,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from schemas.records import Image, Reason
from stages.backends.chat.replies import Completion, converse, in_words
from stages.backends.weights.checkpoints import Checkpoint, CheckpointError, locate
from stages.backends.weights.pretrained import load_model, load_processor
from stages.backends.weights.torch_device import TorchModel
from stages.base import Device
from stages.language.chat import Answer, Message, Reply, Request, Unanswered

if TYPE_CHECKING:
    from stages.backends.chat.transformers import TransformersChatSettings


class RowSampling:
    """A logits processor that draws each row's next token from the row's own seed.

    Temperature, then the smallest set of likeliest tokens that holds `top_p` of the probability,
    then the inverse of the cumulative distribution at one uniform number for each row and step. The
    drawn token is left as the only one, so greedy decoding takes it. Rows at temperature 0 stay.
    """

    def __init__(self, requests: Sequence[Request[Any]], start: int) -> None:
        """`start` is the length of the padded prompts."""
        self._start = start
        self._samplings = [request.sampling for request in requests]
        self._uniform = [
            torch.rand(
                request.sampling.max_tokens,
                generator=torch.Generator("cpu").manual_seed(request.seed),
                dtype=torch.float64,
            ).tolist()
            for request in requests
        ]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Scores [rows, vocabulary] in which only the drawn tokens are left."""
        step = input_ids.shape[1] - self._start
        scores = scores.float()
        for row, sampling in enumerate(self._samplings):
            if sampling.temperature == 0 or step >= sampling.max_tokens:
                continue
            shares, order = (scores[row] / sampling.temperature).softmax(-1).sort(descending=True)
            below = shares.cumsum(-1, dtype=torch.float64)
            # The token that reaches top_p belongs to the set.
            last = int((below < sampling.top_p).sum().clamp(max=len(shares) - 1))
            wanted = self._uniform[row][step] * below[last]
            drawn = order[int((below[: last + 1] <= wanted).sum().clamp(max=last))]
            scores[row] = float("-inf")
            scores[row, drawn] = 0.0
        return scores


class TransformersChatModel(TorchModel):
    """Any image-text-to-text model of the transformers library."""

    def __init__(self, settings: TransformersChatSettings, device: Device) -> None:
        """Load the model, its processor and the adapter; CheckpointError where one does not fit."""
        super().__init__(device)
        self.settings = settings
        self._counts: dict[str, float] = {}
        base, *adapters = settings.checkpoints()
        classes = dict.fromkeys(
            MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES, AutoModelForImageTextToText
        )
        self._model, folder = load_model(classes, base, (self.where, self.dtype))
        self._processor = load_processor(AutoProcessor, folder, base)
        # Pixels by PIL: the same on every machine, and without torchvision.
        self._processor.image_processor = AutoImageProcessor.from_pretrained(
            folder, backend="pil", local_files_only=True
        )
        self._processor.tokenizer.padding_side = "left"
        self._model.generation_config = self._ends()
        for adapter in adapters:
            _adapt(self._model, adapter, base)

    def chat(self, requests: Sequence[Request[Answer]]) -> list[Reply[Answer] | Unanswered]:
        """One result per request, in order."""
        return converse(requests, self._complete)

    def usage(self) -> Mapping[str, float]:
        """As `stages.base.Metered` names it."""
        return dict(self._counts)

    def _complete(self, requests: Sequence[Request[Any]]) -> list[Completion | Unanswered]:
        results: list[Completion | Unanswered] = []
        for start in range(0, len(requests), self.settings.micro_batch):
            results += self._write(
                [in_words(r) for r in requests[start : start + self.settings.micro_batch]]
            )
        return results

    def _write(self, requests: Sequence[Request[Any]]) -> list[Completion | Unanswered]:
        """One micro-batch; requests that would confuse images with words are not asked."""
        marks = [self._mark(request) for request in requests]
        asked = [request for request, mark in zip(requests, marks, strict=True) if mark is None]
        written = iter(self._generate(asked) if asked else ())
        return [
            next(written)
            if mark is None
            else Unanswered(
                Reason.REQUEST_FAILED,
                f"the text holds {mark!r}, which {self.settings.model} takes for an image",
            )
            for mark in marks
        ]

    def _mark(self, request: Request[Any]) -> str | None:
        """The model's placeholder for an image, if a text of the request holds it."""
        token = getattr(self._processor, "image_token", None)
        texts = [p for m in request.messages for p in m.parts if isinstance(p, str)]
        return token if token and any(token in text for text in texts) else None

    def _generate(self, requests: Sequence[Request[Any]]) -> list[Completion]:

        inputs = self._processor.apply_chat_template(
            [[_turn(message) for message in request.messages] for request in requests],
            add_generation_prompt=True,
            tokenize=True,
            return_dict=True,
            return_tensors="pt",
            processor_kwargs={"padding": True},
        )
        where, dtype = self.where, self.dtype
        inputs = {
            name: value.to(where, dtype) if value.is_floating_point() else value.to(where)
            for name, value in inputs.items()
        }
        start = inputs["input_ids"].shape[1]
        longest = max(request.sampling.max_tokens for request in requests)
        draws = RowSampling(requests, start)
        with torch.inference_mode():
            ids = self._model.generate(**inputs, max_new_tokens=longest, logits_processor=[draws])
        read = inputs["attention_mask"].sum(dim=1).tolist()
        return [
            self._completion(request, row, int(num_read))
            for request, row, num_read in zip(requests, ids[:, start:].tolist(), read, strict=True)
        ]

    def _ends(self) -> Any:
        """Where a reply ends, from the model. How it is drawn is the recipe's matter alone.

        A checkpoint brings its own temperature, and penalties that count padding as words; what
        the library finds in the model's configuration it adds to whatever a call asks for.
        """
        own = self._model.generation_config
        pad = own.pad_token_id
        return GenerationConfig(
            do_sample=False,
            bos_token_id=own.bos_token_id,
            eos_token_id=own.eos_token_id,
            pad_token_id=self._processor.tokenizer.pad_token_id if pad is None else pad,
        )

    def _completion(self, request: Request[Any], ids: list[int], num_read: int) -> Completion:
        """The reply up to its first end token; without one, or beyond its limit, it is cut off."""
        ends = self._model.generation_config.eos_token_id
        ends = set(ends if isinstance(ends, list) else [ends])
        limit = request.sampling.max_tokens
        length = next((i for i, token in enumerate(ids[:limit]) if token in ends), None)
        words = ids[: limit if length is None else length]
        for name, number in (
            ("requests", 1),
            ("prompt_tokens", num_read),
            ("completion_tokens", len(words)),
        ):
            self._counts[name] = self._counts.get(name, 0) + number
        return Completion(
            text=self._processor.tokenizer.decode(words, skip_special_tokens=True),
            refusal=None,
            cut_off=length is None,
            prompt_tokens=num_read,
            completion_tokens=len(words),
        )


def _turn(message: Message) -> dict[str, Any]:

    content: list[dict[str, Any]] = []
    for part in message.parts:
        if isinstance(part, Image):
            with PIL.Image.open(io.BytesIO(part.bytes)) as image:
                content.append({"type": "image", "image": image.convert("RGB")})
        else:
            content.append({"type": "text", "text": part})
    return {"role": message.role, "content": content}


def _adapt(model: Any, adapter: Checkpoint, base: Checkpoint) -> None:
    """Put a LoRA adapter into the model; CheckpointError if it is of another model."""
    try:
        from peft import PeftConfig, PeftModel
    except ImportError:
        raise CheckpointError(
            f"{adapter} is an adapter, but peft is not installed; pip install 'nearmiss[train]'"
        ) from None
    folder = locate(adapter)
    if not (folder / "adapter_config.json").is_file():
        raise CheckpointError(f"{adapter}: {folder} has no adapter_config.json; is it an adapter?")
    try:
        config = PeftConfig.from_pretrained(folder)
        config.inference_mode = True
        adapted = PeftModel(model, config)
        loaded = adapted.load_adapter(folder, "default")
    except (ValueError, RuntimeError, KeyError, OSError, TypeError) as error:
        why = str(error).strip().splitlines()[:1]
        raise CheckpointError(f"{adapter} is no adapter of {base}: {' '.join(why)[:300]}") from None
    wrong = [*loaded.missing_keys, *loaded.unexpected_keys]
    if wrong:
        raise CheckpointError(
            f"{adapter} is no adapter of {base}: {len(wrong)} weights do not fit, as {wrong[0]}"
        )
    adapted.eval()
