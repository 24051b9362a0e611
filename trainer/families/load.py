"""From a checkpoint's name to its family. The one place that lists the files of families."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from schemas.names import unknown
from trainer.errors import UsageError
from trainer.families import (  # noqa: F401  their classes are found as subclasses
    idefics3,
    internvl,
    llava,
    llava_next,
    llava_onevision,
    qwen_vl,
)
from trainer.families.family import MARK, Family

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, ProcessorMixin


def family_of(config: PreTrainedConfig) -> type[Family]:
    """The family of a checkpoint or model by its configuration; UsageError if there is none."""
    for family in Family.known():
        if family.reads(config):
            return family
    raise UsageError(_unknown(config.model_type))


def load_config(model: str, revision: str | None = None) -> PreTrainedConfig:
    """A checkpoint's configuration; UsageError if it is missing or of an unknown family."""
    from transformers import AutoConfig, PreTrainedConfig  # noqa: PLC0415  6 s

    try:
        raw, _ = PreTrainedConfig.get_config_dict(model, revision=revision)
        # Looked at first: transformers knows other types than we, and not all that people try.
        if raw.get("model_type") not in _model_types():
            raise UsageError(f"{model}: {_unknown(str(raw.get('model_type')))}")
        return AutoConfig.from_pretrained(model, revision=revision)
    except OSError as error:
        raise UsageError(f"{model} cannot be loaded: {_one_line(error)}") from error


def load_family(model: str, revision: str | None = None) -> Family:
    """The processor and configuration of a checkpoint: a folder or a hub id.

    UsageError for what cannot be loaded, for a family that is not known, and for a chat template
    that does not do what the trainer relies on.
    """
    from transformers import AutoImageProcessor, AutoProcessor  # noqa: PLC0415  6 s

    config = load_config(model, revision)
    kind = family_of(config)
    try:
        processor = AutoProcessor.from_pretrained(model, revision=revision)
        # `AutoProcessor` hands the backend to the video processor, too, which lacks such a variant.
        processor.image_processor = AutoImageProcessor.from_pretrained(
            model, revision=revision, backend="pil"
        )
    except (OSError, ImportError) as error:
        raise UsageError(f"{model} cannot be loaded: {_one_line(error)}") from error
    except ValueError as error:
        raise UsageError(f"{model} has no usable processor: {_one_line(error)}") from error
    if not processor.chat_template:
        raise UsageError(f"{model} has no chat template; add chat_template.jinja to it")
    family = kind(model, config, processor, _end_of_turn(processor, model))
    _check_template(family)
    return replace(family, answer_lead=_answer_lead(family))


def _model_types() -> list[str]:
    return sorted({name for family in Family.known() for name in family.model_types})


def _unknown(model_type: str) -> str:
    return unknown("model type", model_type, _model_types())


def _one_line(error: Exception) -> str:
    return f"{' '.join(str(error).split()):.300}"


def _check_template(family: Family) -> None:
    rendered = family.prompt_text(MARK, 2)
    before, found, _ = rendered.partition(MARK)
    if not found or before.count(family.placeholder) != 2:
        raise UsageError(
            f"the chat template of {family.model} does not write two images before the text, "
            f"but {rendered!r:.200}; correct chat_template.jinja"
        )
    if family.placeholder in family.prompt_text(MARK, 0):
        raise UsageError(
            f"the chat template of {family.model} writes an image placeholder where there is no "
            "image; correct chat_template.jinja"
        )


def _answer_lead(family: Family) -> str:
    """What must stand before an answer so that it has the tokens of the whole conversation.

    Answers are tokenised alone, so mostly nothing: prompts end with a line break or a special
    token, and SentencePiece writes the space before a word itself. But a byte-level tokenizer
    joins a space that the template writes after "Assistant:" to the answer's first word.
    """
    turns = [
        {"role": role, "content": [{"type": "text", "text": text}]}
        for role, text in (("user", "?"), ("assistant", MARK))
    ]
    whole = family.processor.apply_chat_template(turns)
    prompt = family.prompt_text("?", 0)
    between, found, _ = whole.removeprefix(prompt).partition(MARK)
    if not between or not found or not whole.startswith(prompt):
        return ""
    wanted = family.text_ids(whole)
    for lead in ("", between):
        answer = replace(family, answer_lead=lead).answer(MARK).ids[:-1]
        ours = np.concatenate([family.prompt("?", []).ids, answer])
        if np.array_equal(wanted[: len(ours)], ours):
            return lead
    return ""


def _end_of_turn(processor: ProcessorMixin, model: str) -> int:
    """The special token that the template writes right after an answer, or else end-of-sequence."""
    turns = [
        {"role": "user", "content": [{"type": "text", "text": "?"}]},
        {"role": "assistant", "content": [{"type": "text", "text": MARK}]},
    ]
    after = processor.apply_chat_template(turns).partition(MARK)[2].strip()
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
