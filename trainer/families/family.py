"""What every model family answers, and what all of them do alike. A family is a subclass in a file.

One class has two sides. An instance is a checkpoint's processor: images and texts to pixels and
token ids; it holds no weights. Class methods take a model of the family: how it encodes images, in
which positions it counts, which of its parts are which. Neither knows a loss.

A prompt is what the checkpoint's own chat template writes for one user turn, images before text,
with the generation prompt; pixels are what its own image processor makes. Nothing is ever cut.
"""

from __future__ import annotations

import json
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from schemas.ids import content_id
from schemas.records import Span
from trainer.errors import UsageError
from trainer.families.answers import AnswerTokens, answer_tokens
from trainer.families.inputs import ImageFeatures, ImageTensors, Pixels, PromptTokens, joined
from trainer.losses.views import Images, Tokens, View

if TYPE_CHECKING:
    import PIL.Image
    from torch import Tensor, nn
    from transformers import (
        BatchFeature,
        PreTrainedConfig,
        PreTrainedModel,
        PreTrainedTokenizerBase,
        ProcessorMixin,
    )

ANCHORS = ("Answer for the first image.", "Answer for the second image.")
"""The sentence after the question of a prompt with two images, by the place of the named image.
IC-VCO puts such a sentence there, with a space before it (vco_trainer.py:64-77)."""

MARK = "Q8Z4"
"""Stands for a text while a template is looked at."""


@dataclass(frozen=True, slots=True)
class Evaluators:
    """What the evaluation kits call a family (`trainer.evaluate.export`)."""

    lmms_eval: str
    """lmms-eval's name for `--model`."""
    vlmevalkit: str | None
    """Class in VLMEvalKit's `vlmeval/vlm/__init__.py`; None where it has none that loads a
    checkpoint in transformers' form."""
    vlmevalkit_settings: Mapping[str, object] = field(default_factory=dict)
    """What the class wants beside the path and `max_new_tokens`."""
    path_word: str = ""
    """A word without which in the checkpoint's path VLMEvalKit's class loads another model."""


@dataclass(frozen=True)
class Family(ABC):
    """A checkpoint of a family: its processor. Travels to processes that prepare batches."""

    name: ClassVar[str]
    """As people call it."""
    model_types: ClassVar[tuple[str, ...]]
    """`model_type` in the configuration of its checkpoints."""
    several_images: ClassVar[bool]
    """Whether it was trained on prompts with several images. What was not treats a second image as
    noise at best, so a loss that shows two is refused."""
    evaluators: ClassVar[Evaluators]
    """Its names in evaluation kits."""
    tiles_alone: ClassVar[bool] = False
    """Whether an image is cut into tiles only where it is the prompt's only one (OneVision), so
    that one image is two different inputs."""
    image_settings: ClassVar[Mapping[str, bool]] = {}
    """What the processor's own call asks of its image processor, beyond the latter's settings."""
    language_model: ClassVar[str] = "language_model"
    """Name of the language model in the model without its head."""
    vision_tower: ClassVar[str] = "vision_tower"
    """Pattern of the vision tower's name."""
    projector: ClassVar[str] = "multi_modal_projector"
    """Pattern of the names of all between tower and language model. May lie inside the tower."""

    model: str
    """Path or hub id."""
    config: PreTrainedConfig = field(repr=False)
    """Its configuration."""
    processor: ProcessorMixin = field(repr=False)
    """Its processor, with an image processor on PIL: the same pixels on every machine."""
    end_of_turn: int
    """Token after every answer: what the chat template writes there, or else the tokenizer's
    end-of-sequence token (LLaVA-1.5's template writes nothing)."""
    answer_lead: str = ""
    """What the chat template writes between the generation prompt and an answer, where the tokens
    of a conversation want it before the answer: a space with Idefics3, else mostly nothing."""

    # What a family says of its inputs.

    @abstractmethod
    def image_tensors(self, made: BatchFeature, number: int) -> ImageTensors:
        """The tensors of one of the images that the image processor was called with."""

    def image_ids(self, made: BatchFeature, number: int) -> NDArray[np.int64]:
        """The tokens that the processor puts in place of the image's placeholder."""
        text = self.processor.replace_image_token(made, image_idx=number)
        # They begin and end with special tokens, so the text around them changes nothing.
        return np.array(self.tokenizer(text, add_special_tokens=False)["input_ids"], np.int64)

    def num_patches(self, image: ImageTensors) -> int:
        """Patches that the vision tower makes of an image, over all tiles."""
        tiles, _, height, width = image["pixel_values"].shape
        side = self.config.vision_config.patch_size
        tall, wide = side if isinstance(side, list | tuple) else (side, side)
        return int(tiles * (height // tall) * (width // wide))

    @property
    def cuts_edges(self) -> bool:
        """Whether the processor keeps the middle of an image alone."""
        return False

    # What a family says of its models, here without their heads.

    @classmethod
    def reads(cls, config: PreTrainedConfig) -> bool:
        """Whether checkpoints with this configuration are of the family."""
        return config.model_type in cls.model_types

    @classmethod
    def encode(cls, model: PreTrainedModel, images: Sequence[ImageTensors]) -> list[ImageFeatures]:
        """Images through tower and projector in one call.

        They are alone in their prompts, all of them or none (`Pixels.alone`).
        """
        output = model.get_image_features(**joined(images), return_dict=True)
        return [ImageFeatures(tokens) for tokens in output.pooler_output]

    @classmethod
    def encoder_outputs(cls, images: Sequence[ImageFeatures]) -> dict[str, object]:
        """Encoded images in the order of their placeholders, as `mm_encoder_outputs`."""
        return {"image": SimpleNamespace(pooler_output=tuple(image.tokens for image in images))}

    @classmethod
    def positions(
        cls,
        model: PreTrainedModel,  # noqa: ARG003  for families that count otherwise
        prompt: PromptTokens,  # noqa: ARG003
        images: Sequence[ImageTensors],  # noqa: ARG003
    ) -> Tensor | None:
        """Positions of a prompt's tokens in time, height and width, [3, P].

        None for models that count tokens alone. `images` are the prompt's.
        """
        return None

    # What follows from that.

    @classmethod
    def known(cls) -> tuple[type[Family], ...]:
        """All families, by name."""
        return tuple(sorted(_named(cls), key=lambda family: family.name))

    @classmethod
    def text_model(cls, model: nn.Module) -> PreTrainedModel:
        """The language model of a model without its head."""
        return model.get_submodule(cls.language_model)

    @classmethod
    def encoder_trains(cls, model: nn.Module) -> bool:
        """Whether any weight outside the language model, such as the tower, is trained."""
        inside = f"{cls.language_model}."
        return any(p.requires_grad for n, p in model.named_parameters() if not n.startswith(inside))

    @classmethod
    def part_of(cls, name: str) -> str:
        """language_model, projector or vision_tower: where a module or parameter belongs.

        UsageError for a name that is in none of them.
        """
        # Projectors first, as they may lie inside the tower.
        for part, pattern in (
            ("projector", cls.projector),
            ("vision_tower", cls.vision_tower),
            ("language_model", f"{cls.language_model}|lm_head"),
        ):
            if re.search(rf"(^|\.)({pattern})(\.|$)", name):
                return part
        raise UsageError(
            f"{name} is neither in the language model nor in the tower or projector of a "
            f"{cls.name} model; this form of it is not supported"
        )

    @classmethod
    def adapter_targets(cls) -> str:
        """Pattern of the modules that adapters go to, if nothing else is asked for.

        Attention and MLP projections of the language model, and none of the vision tower: the
        suffixes alone, which the papers' code gives, would hit the tower's attention, too.
        """
        return rf".*\.{cls.language_model}\..*\.(q|k|v|o|gate|up|down)_proj"

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
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

    def check(self, views: Iterable[View], what: str) -> None:
        """UsageError where the family cannot fill the views; `what` names who asks for them."""
        views = tuple(views)
        if any(v.images is Images.BOTH for v in views) and not self.several_images:
            others = [family.name for family in Family.known() if family.several_images]
            raise UsageError(
                f"{what} shows two images in one prompt, and {self.model} is {self.name}, "
                f"which was trained on one image a prompt; take {', '.join(others[:-1])} or "
                f"{others[-1]}, or a loss that shows one"
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
        together = self.tiles_alone and len(images) > 1
        groups = [list(images)] if together else [[image] for image in images]
        return [pixels for group in groups for pixels in self._process(group, alone=not together)]

    def prompt(self, text: str, images: Sequence[NDArray[np.int64]]) -> PromptTokens:
        """The prompt, with the tokens that stand for each of its images (`Pixels.ids`).

        ValueError where the text itself holds placeholders: which one is which image would be a
        guess.
        """
        ids, places = self._text_ids(text, len(images))
        found = []
        marks = []
        pieces = np.split(ids, places)
        for number, piece in enumerate(pieces):
            # The placeholder itself is the first of every piece but the first.
            own = [images[number - 1]] if number else []
            found += [*own, piece[len(own) :]]
            marks += [np.full(len(x), number - 1) for x in own]
            marks.append(np.full(len(piece) - len(own), -1))
        return PromptTokens(np.concatenate(found), np.concatenate(marks))

    def text_ids(self, rendered: str) -> NDArray[np.int64]:
        """Tokens of what the chat template wrote, with a start token where the tokenizer has one.

        As transformers does: a template that writes the start token itself gets no second one.
        """
        bos = self.tokenizer.bos_token
        twice = bos is not None and rendered.startswith(bos)
        return np.array(self.tokenizer(rendered, add_special_tokens=not twice)["input_ids"])

    def prompt_length(self, text: str, num_images: int) -> int:
        """Tokens of a prompt, those of its images not counted; ValueError as for `prompt`."""
        return len(self._text_ids(text, num_images)[0]) - num_images

    def answer(self, text: str, spans: Iterable[Span] = ()) -> AnswerTokens:
        """An answer's tokens with end-of-turn, and which of them its spans touch."""
        lead = len(self.answer_lead)
        moved = [Span(start + lead, end + lead) for start, end in spans]
        return answer_tokens(self.tokenizer, self.answer_lead + text, moved, self.end_of_turn)

    def digests(self) -> dict[str, str]:
        """Content ids of all that makes inputs of a row: tokenizer, template, processor."""
        tokenizer = self.tokenizer
        model = tokenizer.backend_tokenizer.to_str() if tokenizer.is_fast else ""
        vocabulary = json.dumps(sorted(tokenizer.get_vocab().items()))
        to_pixels = self.processor.image_processor
        settings = {
            key: value
            for key, value in self.processor.to_dict().items()
            if not key.endswith(("processor", "tokenizer")) and key != "chat_template"
        }
        written = self.prompt_text(MARK, 1) + self.answer_lead
        return {
            "tokenizer": content_id(model, vocabulary),
            "template": content_id(written, *ANCHORS, self.end_of_turn),
            "processor": content_id(
                type(to_pixels).__name__,
                to_pixels.to_json_string(),
                json.dumps(settings, sort_keys=True, default=str),
            ),
        }

    def _process(self, group: list[PIL.Image.Image], *, alone: bool) -> list[Pixels]:
        images = self.processor.image_processor
        made = images([group], return_tensors="pt", **self.image_settings)
        found = []
        for number in range(len(group)):
            tensors = self.image_tensors(made, number)
            ids = self.image_ids(made, number)
            features = int((ids == self.processor.image_token_id).sum())
            found.append(Pixels(tensors, ids, features, self.num_patches(tensors), alone))
        return found

    def _text_ids(self, text: str, num_images: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The prompt's tokens with one placeholder an image, and the places of those."""
        ids = self.text_ids(self.prompt_text(text, num_images))
        places = np.flatnonzero(ids == self.processor.image_token_id)
        if len(places) != num_images:
            raise ValueError(
                f"a prompt with {num_images} images has {len(places)} placeholders: "
                f"the text holds {self.placeholder!r}: {text!r:.80}"
            )
        return ids, places


def _named(family: type[Family]) -> Iterator[type[Family]]:
    if "name" in vars(family):
        yield family
    for child in family.__subclasses__():
        yield from _named(child)
