"""SigLIP and SigLIP 2 NaFlex with random weights, both towers."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    Siglip2Config,
    Siglip2ImageProcessorPil,
    Siglip2Model,
    SiglipConfig,
    SiglipImageProcessorPil,
    SiglipModel,
)

TEXT = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 64,
}
VISION = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "patch_size": 8,
}


def save_siglip(folder: Path, seed: int = 0, *, head: bool = True) -> Path:
    """A SigLIP checkpoint of 32 px."""
    vision = {**VISION, "image_size": 32, "vision_use_head": head}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        SiglipModel(SiglipConfig(text_config=TEXT, vision_config=vision)).save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def save_siglip2(folder: Path, seed: int = 0) -> Path:
    """A SigLIP 2 NaFlex checkpoint of at most 16 patches of 8 px."""
    vision = {**VISION, "num_patches": 16}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        Siglip2Model(Siglip2Config(text_config=TEXT, vision_config=vision)).save_pretrained(folder)
    Siglip2ImageProcessorPil(patch_size=8, max_num_patches=16).save_pretrained(folder)
    return folder
