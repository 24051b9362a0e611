"""Grounding DINO with random weights: the real class, its tokenizer with BERT's special numbers."""

from __future__ import annotations

import string
from pathlib import Path

import torch
from transformers import (
    BertConfig,
    BertTokenizer,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessorPil,
    GroundingDinoProcessor,
    SwinConfig,
)

MAX_TEXT_LEN = 32
WORDS = (
    *("dog", "cat", "red", "panda", "frisbee", "man", "person", "bus", "the", "a"),
    *("blue", "green", "yellow", "orange", "purple", "white", "black", "pink", "brown", "gray"),
    *("circle", "square", "triangle", "star", "ring", "cross", "heart", "diamond"),
)


def vocabulary() -> dict[str, int]:
    """BERT's numbers for the tokens that the model's code knows; words and letters besides."""
    fixed = {"[PAD]": 0, "[UNK]": 100, "[CLS]": 101, "[SEP]": 102, "[MASK]": 103}
    fixed |= {".": 1012, "?": 1029}
    letters = string.ascii_lowercase + string.digits + "'-"
    others = [*WORDS, *letters, *(f"##{letter}" for letter in letters)]
    names = {number: token for token, number in fixed.items()}
    names |= dict(enumerate(others, start=200))
    return {names.get(number, f"[unused{number}]"): number for number in range(1050)}


def save_grounding_dino(folder: Path, seed: int = 0) -> Path:
    """A checkpoint with its processor; images are sized to 96 by at most 160 pixels."""
    backbone = SwinConfig(
        image_size=64,
        embed_dim=16,
        depths=[1, 1, 2, 1],
        num_heads=[1, 2, 2, 2],
        window_size=4,
        out_indices=[2, 3, 4],
    )
    text = BertConfig(
        vocab_size=1050,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    config = GroundingDinoConfig(
        backbone_config=backbone,
        text_config=text.to_dict(),
        d_model=64,
        encoder_layers=2,
        decoder_layers=2,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        num_queries=20,
        max_text_len=MAX_TEXT_LEN,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = GroundingDinoForObjectDetection(config)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            # The library's own start leaves boxes and fusion at zero: nothing would depend on
            # the image.
            for weight in model.parameters():
                if weight.ndim > 1:
                    weight.normal_(0, 0.1, generator=generator)
            for layer in model.model.encoder.layers:
                layer.fusion_layer.vision_param.fill_(1.0)
                layer.fusion_layer.text_param.fill_(1.0)
        model.save_pretrained(folder)
    processor = GroundingDinoImageProcessorPil(size={"shortest_edge": 96, "longest_edge": 160})
    GroundingDinoProcessor(processor, BertTokenizer(vocab=vocabulary())).save_pretrained(folder)
    return folder
