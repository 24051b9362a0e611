"""DINOv2 with random weights, with and without register tokens."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    BitImageProcessorPil,
    Dinov2Config,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
)

SIDE = 28


def save_dinov2(folder: Path, seed: int = 0, *, registers: int = 0) -> Path:
    """A checkpoint with its image processor, which crops as the real one does (256 to 224)."""
    settings = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": SIDE,
        "patch_size": 7,
        "initializer_range": 0.2,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if registers:
            config = Dinov2WithRegistersConfig(**settings, num_register_tokens=registers)
            model = Dinov2WithRegistersModel(config)
        else:
            model = Dinov2Model(Dinov2Config(**settings))
        model.save_pretrained(folder)
    BitImageProcessorPil(
        size={"shortest_edge": SIDE * 8 // 7},
        crop_size={"height": SIDE, "width": SIDE},
        image_mean=[0.485, 0.456, 0.406],
        image_std=[0.229, 0.224, 0.225],
    ).save_pretrained(folder)
    return folder
