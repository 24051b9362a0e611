"""What tiny vision-language models read: tokenizers of the published kinds, and their sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

SIDE = 32
"""Pixels of the vision towers."""
PATCH = 8
HIDDEN = 32
# Wider than the libraries' 0.02, so that answers depend on the image.
SPREAD = 0.25

CORPUS = [
    "The ring is purple. The ring is red. What colour is the ring?",
    "A blue circle lies on the left side, an orange star on the right side.",
    "How many shapes of each kind are there? There is one yellow ring. There are two.",
    "Describe the image. An orange circle, a yellow ring and a purple triangle lie there.",
    "Where are the shapes? On the left there is an orange triangle, on the right a green square.",
    "Answer for the first image. Answer for the second image. USER ASSISTANT user assistant system",
]

QWEN_SPECIALS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
    "<image>",
    "<video>",
)


def byte_level_tokenizer(
    specials: Sequence[str] = QWEN_SPECIALS,
    vocabulary: int = 400,
    end: str = "<|im_end|>",
    **more: Any,
) -> PreTrainedTokenizerFast:
    """As Qwen's: byte-level BPE, no token at the start; the first special token pads."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=vocabulary,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=list(specials),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=end,
        pad_token=specials[0],
        additional_special_tokens=list(specials[1:]),
        **more,
    )


def sentencepiece_tokenizer(vocabulary: int = 500) -> PreTrainedTokenizerFast:
    """As LLaMA's: pieces that carry their space, unknown characters as bytes, <s> at the start."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    fallback = [f"<0x{byte:02X}>" for byte in range(256)]
    trainer = BpeTrainer(
        vocab_size=vocabulary,
        initial_alphabet=list(".,?:"),
        special_tokens=["<unk>", "<s>", "</s>", "<image>", "<pad>", *fallback],
        show_progress=False,
    )
    # LLaMA's merges never cross words, though its normaliser has no words.
    words = [word.strip(".,?") for line in CORPUS for word in line.split(" ")]
    tokenizer.train_from_iterator(words, trainer)
    start = tokenizer.token_to_id("<s>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", start)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        additional_special_tokens=["<image>"],
    )


def text_settings(tokenizer: PreTrainedTokenizerFast, **more: Any) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": HIDDEN,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "initializer_range": SPREAD,
        "tie_word_embeddings": False,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        **more,
    }
