"""InternVL with random weights: images become one tile, or several and a thumbnail."""

from __future__ import annotations

from typing import Any

from transformers import (
    GotOcr2ImageProcessorPil,
    InternVLConfig,
    InternVLForConditionalGeneration,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from fakes.tiny.texts import HIDDEN, PATCH, SIDE, SPREAD, byte_level_tokenizer, text_settings

TOKENS = {
    "start_image_token": "<img>",
    "end_image_token": "</img>",
    "context_image_token": "<IMG_CONTEXT>",
    "video_token": "<video>",
}
TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}{{ '<IMG_CONTEXT>\n' }}"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def internvl_tokenizer() -> PreTrainedTokenizerFast:
    """Qwen's, with names for the tokens of an image."""
    specials = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *TOKENS.values())
    return byte_level_tokenizer(specials, extra_special_tokens=TOKENS)


def internvl(tokenizer: Any, text: Any) -> tuple[Any, Any]:
    """Model and processor; four tokens a tile, at most four tiles."""
    from transformers import InternVLProcessor, InternVLVideoProcessor  # they need torchvision

    config = InternVLConfig(
        vision_config={
            "hidden_size": HIDDEN,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": [SIDE, SIDE],
            "patch_size": [PATCH, PATCH],
            "initializer_range": SPREAD,
        },
        text_config=Qwen2Config(**text_settings(tokenizer, **text)).to_dict(),
        image_token_id=tokenizer.context_image_token_id,
        image_seq_length=4,
    )
    square = {"height": SIDE, "width": SIDE}
    processor = InternVLProcessor(
        # Published checkpoints have tiles off here and on in the processor's call.
        GotOcr2ImageProcessorPil(size=square, crop_to_patches=False, max_patches=4),
        tokenizer,
        InternVLVideoProcessor(size=square),
        image_seq_length=4,
        chat_template=TEMPLATE,
    )
    return InternVLForConditionalGeneration(config), processor
