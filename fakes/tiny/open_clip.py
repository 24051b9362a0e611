"""CLIP in the layout of open_clip, with random weights and the library's own tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import torch
from safetensors.torch import save_file

SIDE = 32
MAX_TOKENS = 24
MODEL = {
    "embed_dim": 16,
    "vision_cfg": {
        "image_size": SIDE,
        "layers": 2,
        "width": 32,
        "head_width": 16,
        "patch_size": 8,
    },
    "text_cfg": {
        "context_length": MAX_TOKENS,
        "vocab_size": 49408,
        "width": 32,
        "heads": 2,
        "layers": 2,
    },
}


def save_open_clip(folder: Path, seed: int = 0) -> Path:
    """A checkpoint as `local-dir:` reads it."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = open_clip.CLIP(**MODEL)
    save_file(model.state_dict(), folder / "open_clip_model.safetensors")
    config = {"model_cfg": MODEL, "preprocess_cfg": {"size": SIDE}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    return folder
