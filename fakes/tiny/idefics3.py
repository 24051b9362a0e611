"""Idefics3 as SmolVLM has it, with random weights: tiles in rows and columns, and the whole."""

from __future__ import annotations

from typing import Any

from transformers import (
    Idefics3Config,
    Idefics3ForConditionalGeneration,
    Idefics3ImageProcessorPil,
    Idefics3Processor,
    LlamaConfig,
    PreTrainedTokenizerFast,
)

from fakes.tiny.texts import HIDDEN, PATCH, SIDE, SPREAD, byte_level_tokenizer, text_settings

TEMPLATE = (
    "{{ '<|im_start|>' }}{% for message in messages %}{{ message['role'] | capitalize }}"
    "{{ ':' if message['content'][0]['type'] == 'image' else ': ' }}"
    "{% for part in message['content'] %}"
    "{{ '<image>' if part['type'] == 'image' else part['text'] }}{% endfor %}"
    "{{ '<end_of_utterance>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


def idefics3_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level, with a token for each place of a tile; the template writes its start token."""
    places = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    around = ("<fake_token_around_image>", "<image>", "<global-img>", "<end_of_utterance>")
    specials = ("<|endoftext|>", "<|im_start|>", *around, *places)
    end = "<end_of_utterance>"
    return byte_level_tokenizer(specials, 450, end, bos_token="<|im_start|>")


def idefics3(tokenizer: Any, text: Any) -> tuple[Any, Any]:
    """Model and processor; four tokens a tile, at most two tiles in a row and in a column."""
    config = Idefics3Config(
        vision_config={
            "hidden_size": HIDDEN,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": SIDE,
            "patch_size": PATCH,
            "initializer_range": SPREAD,
        },
        text_config=LlamaConfig(**text_settings(tokenizer, **text)).to_dict(),
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
    )
    images = Idefics3ImageProcessorPil(
        size={"longest_edge": 2 * SIDE}, max_image_size={"longest_edge": SIDE}
    )
    processor = Idefics3Processor(images, tokenizer, image_seq_len=4, chat_template=TEMPLATE)
    return Idefics3ForConditionalGeneration(config), processor
