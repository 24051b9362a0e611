"""A checkpoint's processor: images and texts to pixels and token ids. Knows no weights and no loss.

A prompt is what the checkpoint's own chat template writes for one user turn, images before text,
with the generation prompt; pixels are what its own image processor makes. Nothing is ever cut.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from torch import Tensor

from schemas.ids import content_id
from schemas.records import Span
from trainer.errors import UsageError
from trainer.families.answers import AnswerTokens, answer_tokens
from trainer.families.kinds import Kind, kind_of
from trainer.losses.views import Images, Tokens, View

ANCHORS = ("Answer for the first image.", "Answer for the second image.")
"""The sentence after the question of a prompt with two images, by the place of the named image.
IC-VCO puts such a sentence there, with a space before it (vco_trainer.py:64-77)."""

_MARK = "Q8Z4"
"""Stands for a text while a template is looked at."""


@dataclass(frozen=True, slots=True)
class Pixels:
    """One image as the model takes it."""

    tensors: dict[str, Tensor]
    """`pixel_values` [tiles, 3, height, width] or [patches, numbers], and, where the model asks for
    them, `image_sizes` [1, 2] or `image_grid_thw` [1, 3]."""
    num_tokens: int
    """Placeholder tokens that stand for it in a prompt."""
    alone: bool
    """Whether it was made as the only image of its prompt."""


@dataclass(frozen=True, slots=True)
class PromptTokens:
    """A prompt as the model takes it."""

    ids: NDArray[np.int64]
    """Its tokens, every placeholder repeated as often as its image has tokens."""
    image: NDArray[np.int64]
    """For every token the number of the image that it stands for, -1 for text."""


@dataclass(frozen=True)
class Family:
    """What a checkpoint says about its inputs. Travels to processes that prepare batches."""

    model: str
    """Path or hub id."""
    kind: Kind
    """What differs between families."""
    config: Any = field(repr=False)
    """Its configuration."""
    processor: Any = field(repr=False)
    """Its processor, with an image processor on PIL: the same pixels on every machine."""
    end_of_turn: int
    """Token after every answer: what the chat template writes there, or else the tokenizer's
    end-of-sequence token (LLaVA-1.5's template writes nothing)."""

    @property
    def tokenizer(self) -> Any:
        """Its tokenizer."""
        return self.processor.tokenizer

    @property
    def placeholder(self) -> str:
        """The text that stands for an image in a rendered prompt."""
        text: str = self.processor.image_token
        return text

    @property
    def context(self) -> int:
        """Positions that the language model was made for."""
        number: int = self.config.get_text_config().max_position_embeddings
        return number

    @property
    def cuts_edges(self) -> bool:
        """Whether the processor keeps the middle of an image alone (LLaVA-1.5's, which is CLIP's).

        NeXT's has the same setting, but for tiles, which cover the whole image.
        """
        pictures = self.processor.image_processor
        tiles = hasattr(pictures, "image_grid_pinpoints")
        return bool(getattr(pictures, "do_center_crop", False)) and not tiles

    def check(self, views: Iterable[View], what: str) -> None:
        """UsageError where the family cannot fill the views; `what` names who asks for them."""
        views = tuple(views)
        if any(v.images is Images.BOTH for v in views) and not self.kind.several_images:
            raise UsageError(
                f"{what} shows two images in one prompt, and {self.model} is {self.kind.name}, "
                "which was trained on one image a prompt; take LLaVA-Interleave, LLaVA-OneVision, "
                "Qwen2.5-VL or Qwen3-VL, or a loss that shows one"
            )
        if any(v.tokens is Tokens.SPANS for v in views) and not self.tokenizer.is_fast:
            raise UsageError(
                f"{what} counts the tokens that differ, and the tokenizer of {self.model} "
                f"({type(self.tokenizer).__name__}) does not say which characters a token is; "
                "take a checkpoint with tokenizer.json, or a loss that counts all tokens"
            )

    def prompt_text(self, text: str, num_images: int) -> str:
        """The prompt as the chat template writes it, a placeholder for each image."""
        content = [{"type": "image"}] * num_images + [{"type": "text", "text": text}]
        rendered: str = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], add_generation_prompt=True
        )
        return rendered

    def pixels(self, images: Sequence[PIL.Image.Image]) -> list[Pixels]:
        """The images of one prompt, in order; ValueError for one that the processor refuses."""
        together = self.kind.tiles_alone and len(images) > 1
        groups = [list(images)] if together else [[image] for image in images]
        return [
            pixels
            for group in groups
            for pixels in self._process(group, alone=len(images) == 1 or not self.kind.tiles_alone)
        ]

    def prompt(self, text: str, num_tokens: Sequence[int]) -> PromptTokens:
        """The prompt for images of so many tokens each.

        ValueError where the text itself holds placeholders: which one is which image would be a
        guess.
        """
        rendered = self.prompt_text(text, len(num_tokens))
        bos = self.tokenizer.bos_token
        # As transformers does: a template that writes the start token itself gets no second one.
        twice = bos is not None and rendered.startswith(bos)
        ids = np.array(self.tokenizer(rendered, add_special_tokens=not twice)["input_ids"])
        places = np.flatnonzero(ids == self.processor.image_token_id)
        if len(places) != len(num_tokens):
            raise ValueError(
                f"a prompt with {len(num_tokens)} images has {len(places)} placeholders: "
                f"the text holds {self.placeholder!r}: {text!r:.80}"
            )
        repeats = np.ones(len(ids), np.int64)
        image = np.full(len(ids), -1)
        repeats[places] = num_tokens
        image[places] = np.arange(len(places))
        return PromptTokens(np.repeat(ids, repeats).astype(np.int64), np.repeat(image, repeats))

    def answer(self, text: str, spans: Iterable[Span] = ()) -> AnswerTokens:
        """An answer's tokens with end-of-turn, and which of them its spans touch."""
        return answer_tokens(self.tokenizer, text, spans, self.end_of_turn)

    def digests(self) -> dict[str, str]:
        """Content ids of all that makes inputs of a row: tokenizer, template, processor."""
        tokenizer = self.tokenizer
        model = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else ""
        vocabulary = json.dumps(sorted(tokenizer.get_vocab().items()))
        pictures = self.processor.image_processor
        settings = {
            key: value
            for key, value in self.processor.to_dict().items()
            if not key.endswith(("processor", "tokenizer")) and key != "chat_template"
        }
        return {
            "tokenizer": content_id(model, vocabulary),
            "template": content_id(self.prompt_text(_MARK, 1), *ANCHORS, self.end_of_turn),
            "processor": content_id(
                type(pictures).__name__,
                pictures.to_json_string(),
                json.dumps(settings, sort_keys=True, default=str),
            ),
        }

    def _process(self, group: list[PIL.Image.Image], *, alone: bool) -> list[Pixels]:
        made = self.processor.image_processor([group], return_tensors="pt")
        found = []
        first = 0
        for number in range(len(group)):
            tensors = {
                key: made[key][number : number + 1]
                for key in ("image_sizes", "image_grid_thw")
                if key in made
            }
            values = made["pixel_values"]
            if "image_grid_thw" in tensors:
                count = int(tensors["image_grid_thw"].prod())
                tensors["pixel_values"] = values[first : first + count]
                first += count
            else:
                tiles = values[number]
                tensors["pixel_values"] = tiles if tiles.ndim == 4 else tiles[None]
            text = self.processor.replace_image_token(made, image_idx=number)
            found.append(Pixels(tensors, text.count(self.placeholder), alone))
        return found


def load_family(model: str, revision: str | None = None) -> Family:
    """The processor and configuration of a checkpoint: a folder or a hub id.

    UsageError for what cannot be loaded, for a family that is not known, and for a chat template
    that does not do what the trainer relies on.
    """
    from transformers import AutoConfig, AutoImageProcessor, AutoProcessor  # noqa: PLC0415  6 s

    try:
        config = AutoConfig.from_pretrained(model, revision=revision)
        kind = kind_of(config, model)
        processor = AutoProcessor.from_pretrained(model, revision=revision)
        # `AutoProcessor` hands the backend to the video processor, too, which has no such form.
        processor.image_processor = AutoImageProcessor.from_pretrained(
            model, revision=revision, backend="pil"
        )
    except (OSError, ImportError) as error:
        message = " ".join(str(error).split())
        raise UsageError(f"{model} cannot be loaded: {message:.300}") from error
    except ValueError as error:
        if isinstance(error, UsageError):
            raise
        message = " ".join(str(error).split())
        raise UsageError(f"{model} has no usable processor: {message:.300}") from error
    if not processor.chat_template:
        raise UsageError(f"{model} has no chat template; add chat_template.jinja to it")
    family = Family(model, kind, config, processor, _end_of_turn(processor, model))
    _check_template(family)
    return family


def _check_template(family: Family) -> None:
    rendered = family.prompt_text(_MARK, 2)
    before, found, _ = rendered.partition(_MARK)
    if not found or before.count(family.placeholder) != 2:
        raise UsageError(
            f"the chat template of {family.model} does not write two images before the text, "
            f"but {rendered!r:.200}; mend chat_template.jinja"
        )
    if family.placeholder in family.prompt_text(_MARK, 0):
        raise UsageError(
            f"the chat template of {family.model} writes an image placeholder where there is no "
            "image; mend chat_template.jinja"
        )


def _end_of_turn(processor: Any, model: str) -> int:
    """The special token that the template writes right after an answer, or else end-of-sequence."""
    turns = [
        {"role": "user", "content": [{"type": "text", "text": "?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": _MARK}]},
    ]
    after = processor.apply_chat_template(turns).partition(_MARK)[2].strip()
    tokenizer = processor.tokenizer
    ids = tokenizer(after, add_special_tokens=False)["input_ids"] if after else []
    if ids and ids[0] in tokenizer.all_special_ids:
        return int(ids[0])
    if tokenizer.eos_token_id is None:
        raise UsageError(
            f"nothing marks the end of an answer in {model}: neither its chat template nor an "
            "end-of-sequence token of its tokenizer"
        )
    return int(tokenizer.eos_token_id)


def image_inputs(pixels: Sequence[Pixels]) -> dict[str, Tensor]:
    """The tensors of several images, one after the other."""
    names = list(pixels[0].tensors) if pixels else []
    return {name: torch.cat([p.tensors[name] for p in pixels]) for name in names}
