"""Vision-language models with random weights: the real classes, processors and template forms.

`save_vlm(folder, family)` writes a checkpoint as a user has one: config, weights, processor,
tokenizer, chat template. Templates are written here in the form that each family's have.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextImageProcessorPil,
    LlavaNextProcessor,
    LlavaOnevisionConfig,
    LlavaOnevisionForConditionalGeneration,
    LlavaOnevisionImageProcessorPil,
    LlavaProcessor,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    SiglipImageProcessorPil,
    SiglipVisionConfig,
)

from fakes.tiny.idefics3 import idefics3, idefics3_tokenizer
from fakes.tiny.internvl import internvl, internvl_tokenizer
from fakes.tiny.texts import (
    HIDDEN,
    PATCH,
    SIDE,
    SPREAD,
    byte_level_tokenizer,
    sentencepiece_tokenizer,
    text_settings,
)

VICUNA = (
    "{% for message in messages %}{{ message['role'].upper() + ': ' }}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>\n' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] + ' ' }}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
"""LLaVA-1.5 and NeXT on Vicuna: nothing marks the end of a turn."""

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% for part in message['content'] if part['type'] == 'image' %}{{ '<image>' }}{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{{ '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""Interleave and OneVision."""

QWEN = (
    "{% if messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nA short answer, please.<|im_end|>\n' }}{% endif %}"
    + CHATML.replace("'<image>'", "'<|vision_start|><|image_pad|><|vision_end|>'")
)

_VISION = {
    "hidden_size": HIDDEN,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": PATCH,
    "initializer_range": SPREAD,
}
_PATCHES = (SIDE // PATCH) ** 2
_SQUARE = {"height": SIDE, "width": SIDE}
_PINPOINTS = [[SIDE, 2 * SIDE], [2 * SIDE, SIDE], [2 * SIDE, 2 * SIDE]]


def _llava(tokenizer: Any, text: Any) -> tuple[Any, Any]:
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**_VISION).to_dict(),
        text_config=LlamaConfig(**text_settings(tokenizer, **text)).to_dict(),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=_PATCHES,
    )
    images = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=_SQUARE)
    processor = LlavaProcessor(
        images,
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=VICUNA,
    )
    return LlavaForConditionalGeneration(config), processor


def _interleave(tokenizer: Any, text: Any) -> tuple[Any, Any]:
    config = LlavaConfig(
        vision_config=SiglipVisionConfig(**_VISION, vision_use_head=False).to_dict(),
        text_config=Qwen2Config(**text_settings(tokenizer, **text)).to_dict(),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=_PATCHES,
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
    )
    processor = LlavaProcessor(
        SiglipImageProcessorPil(size=_SQUARE),
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="full",
        chat_template=CHATML,
    )
    return LlavaForConditionalGeneration(config), processor


def _next(tokenizer: Any, text: Any) -> tuple[Any, Any]:
    config = LlavaNextConfig(
        vision_config=CLIPVisionConfig(**_VISION).to_dict(),
        text_config=LlamaConfig(**text_settings(tokenizer, **text)).to_dict(),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        image_seq_length=_PATCHES,
        image_grid_pinpoints=_PINPOINTS,
    )
    images = LlavaNextImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size=_SQUARE, image_grid_pinpoints=_PINPOINTS
    )
    processor = LlavaNextProcessor(
        images,
        tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=VICUNA,
    )
    return LlavaNextForConditionalGeneration(config), processor


def _onevision(tokenizer: Any, text: Any) -> tuple[Any, Any]:
    # Loaded late: they need torchvision.
    from transformers import LlavaOnevisionProcessor, LlavaOnevisionVideoProcessor

    config = LlavaOnevisionConfig(
        vision_config=SiglipVisionConfig(**_VISION, vision_use_head=False).to_dict(),
        text_config=Qwen2Config(**text_settings(tokenizer, **text)).to_dict(),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=_PINPOINTS,
    )
    images = LlavaOnevisionImageProcessorPil(size=_SQUARE, image_grid_pinpoints=_PINPOINTS)
    processor = LlavaOnevisionProcessor(
        images,
        tokenizer,
        LlavaOnevisionVideoProcessor(size=_SQUARE),
        num_image_tokens=_PATCHES,
        vision_feature_select_strategy="full",
        chat_template=CHATML,
    )
    return LlavaOnevisionForConditionalGeneration(config), processor


def _qwen_ids(tokenizer: Any) -> dict[str, int]:
    names = {
        "image_token_id": "<|image_pad|>",
        "video_token_id": "<|video_pad|>",
        "vision_start_token_id": "<|vision_start|>",
        "vision_end_token_id": "<|vision_end|>",
    }
    return {key: tokenizer.convert_tokens_to_ids(name) for key, name in names.items()}


def _qwen_images(patch: int) -> Any:
    from transformers import Qwen2VLImageProcessorPil

    return Qwen2VLImageProcessorPil(
        patch_size=patch,
        merge_size=2,
        temporal_patch_size=2,
        size={"shortest_edge": (2 * patch) ** 2, "longest_edge": (8 * patch) ** 2},
    )


def _qwen25(tokenizer: Any, text: Any) -> tuple[Any, Any]:
    from transformers import Qwen2_5_VLProcessor, Qwen2VLVideoProcessor

    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
    config = Qwen2_5_VLConfig(
        text_config=text_settings(tokenizer, rope_parameters=rope, **text),
        vision_config={
            "depth": 2,
            "hidden_size": HIDDEN,
            "intermediate_size": 64,
            "num_heads": 2,
            "patch_size": PATCH,
            "out_hidden_size": text.get("hidden_size", HIDDEN),
            "window_size": 4 * PATCH,
            "fullatt_block_indexes": [1],
            "initializer_range": SPREAD,
        },
        **_qwen_ids(tokenizer),
    )
    processor = Qwen2_5_VLProcessor(
        _qwen_images(PATCH), tokenizer, Qwen2VLVideoProcessor(), chat_template=QWEN
    )
    return Qwen2_5_VLForConditionalGeneration(config), processor


def _qwen3(tokenizer: Any, text: Any) -> tuple[Any, Any]:
    from transformers import Qwen3VLProcessor, Qwen3VLVideoProcessor

    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [1, 1, 2]}
    config = Qwen3VLConfig(
        text_config=text_settings(tokenizer, rope_parameters=rope, **{"head_dim": 8, **text}),
        vision_config={
            "depth": 3,
            "hidden_size": HIDDEN,
            "intermediate_size": 64,
            "num_heads": 2,
            "patch_size": PATCH,
            "out_hidden_size": text.get("hidden_size", HIDDEN),
            "num_position_embeddings": 64,
            "deepstack_visual_indexes": [0, 1],
            "initializer_range": SPREAD,
        },
        **_qwen_ids(tokenizer),
    )
    processor = Qwen3VLProcessor(
        _qwen_images(PATCH), tokenizer, Qwen3VLVideoProcessor(), chat_template=QWEN
    )
    return Qwen3VLForConditionalGeneration(config), processor


_BUILDERS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "llava-1.5": (_llava, sentencepiece_tokenizer),
    "llava-next": (_next, sentencepiece_tokenizer),
    "llava-interleave": (_interleave, byte_level_tokenizer),
    "llava-onevision": (_onevision, byte_level_tokenizer),
    "qwen2.5-vl": (_qwen25, byte_level_tokenizer),
    "qwen3-vl": (_qwen3, byte_level_tokenizer),
    "internvl": (internvl, internvl_tokenizer),
    "idefics3": (idefics3, idefics3_tokenizer),
}
FAMILIES = tuple(_BUILDERS)


def save_vlm(folder: Path, family: str, seed: int = 0, **text: Any) -> Path:
    """Write a checkpoint of a family; `text` overrides settings of the language model."""
    build, tokenizer = _BUILDERS[family]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model, processor = build(tokenizer(), text)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
