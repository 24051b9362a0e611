"""The models of `removal` with random weights on disk: tiny, or of their published sizes.

Weights are drawn, so what the models find means nothing; time and memory do not depend on it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from random_large import save_big_lama, save_ram_plus

from fakes.tiny.clip import save_clip
from fakes.tiny.dinov2 import save_dinov2
from fakes.tiny.grounding_dino import save_grounding_dino
from fakes.tiny.lama import save_lama
from fakes.tiny.ram import save_ram
from fakes.tiny.sam import save_sam
from fakes.tiny.siglip import save_siglip

TAGS = ("circle", "square", "triangle", "star", "ring", "cross", "sky")

FULL: Mapping[str, Mapping[str, Any]] = {
    # facebook/sam-vit-huge
    "sam": {
        "vision_config": {
            "hidden_size": 1280, "num_hidden_layers": 32, "num_attention_heads": 16,
            "mlp_dim": 5120, "image_size": 1024, "patch_size": 16, "output_channels": 256,
            "global_attn_indexes": [7, 15, 23, 31], "window_size": 14, "num_pos_feats": 128,
        },
        "prompt_encoder_config": {
            "hidden_size": 256, "image_size": 1024, "patch_size": 16, "image_embedding_size": 64,
            "mask_input_channels": 16,
        },
        "mask_decoder_config": {
            "hidden_size": 256, "mlp_dim": 2048, "num_attention_heads": 8,
            "iou_head_hidden_dim": 256,
        },
    },
    # google/siglip-so400m-patch14-384
    "siglip": {
        "vision_config": {
            "hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27,
            "num_attention_heads": 16, "image_size": 384, "patch_size": 14,
        },
    },
    # facebook/dinov2-large
    "dinov2": {
        "hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16,
        "image_size": 518, "patch_size": 14,
    },
    # openai/clip-vit-large-patch14-336
    "clip": {
        "projection_dim": 768,
        "vision_config": {
            "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
            "num_attention_heads": 16, "image_size": 336, "patch_size": 14,
        },
        "text_config": {
            "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
            "num_attention_heads": 12,
        },
    },
    # IDEA-Research/grounding-dino-base
    "grounding_dino": {
        "backbone_config": {
            "image_size": 384, "embed_dim": 128, "depths": [2, 2, 18, 2],
            "num_heads": [4, 8, 16, 32], "window_size": 12, "hidden_size": 1024,
        },
        "text_config": {
            "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
            "intermediate_size": 3072, "max_position_embeddings": 512,
        },
        "d_model": 256, "encoder_layers": 6, "decoder_layers": 6, "encoder_ffn_dim": 2048,
        "decoder_ffn_dim": 2048, "encoder_attention_heads": 8, "decoder_attention_heads": 8,
        "num_queries": 900, "max_text_len": 256,
    },
}  # fmt: skip
"""What differs from the tiny configuration, by family; RAM++ and LaMa are in `random_large.py`."""

CLASSES = {
    "sam": transformers.SamModel,
    "siglip": transformers.SiglipModel,
    "dinov2": transformers.Dinov2Model,
    "clip": transformers.CLIPModel,
    "grounding_dino": transformers.GroundingDinoForObjectDetection,
}

SIZES = {
    "sam": {"size": {"longest_edge": 1024}, "pad_size": {"height": 1024, "width": 1024}},
    "siglip": {"size": {"height": 384, "width": 384}},
    "dinov2": {"size": {"shortest_edge": 256}, "crop_size": {"height": 224, "width": 224}},
    "clip": {"size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}},
    "grounding_dino": {"size": {"shortest_edge": 800, "longest_edge": 1333}},
}


def random_models(folder: Path, *, full: bool) -> dict[str, Any]:
    """Folders (of RAM its three files, of LaMa its file) by family."""
    for name in ("ram", *CLASSES):
        (folder / name).mkdir(parents=True)
    models = {
        "ram": save_ram_plus(folder / "ram", TAGS) if full else _tiny_ram(folder / "ram"),
        "grounding_dino": save_grounding_dino(folder / "grounding_dino"),
        "sam": save_sam(folder / "sam"),
        "lama": (save_big_lama if full else save_lama)(folder / "big-lama.pt"),
        "siglip": save_siglip(folder / "siglip"),
        "dinov2": save_dinov2(folder / "dinov2"),
        "clip": save_clip(folder / "clip"),
    }
    if full:
        for name in FULL:
            _enlarge(name, folder / name)
    return models


def _tiny_ram(folder: Path) -> dict[str, Any]:
    ram = save_ram(folder)
    Path(ram["tag_list"]).write_text("\n".join(TAGS))
    Path(ram["thresholds"]).write_text("\n".join(["0"] * len(TAGS)))
    return ram


def _enlarge(name: str, folder: Path) -> None:
    config = transformers.AutoConfig.from_pretrained(folder)
    _apply(config, FULL[name])
    torch.manual_seed(0)
    CLASSES[name](config).save_pretrained(folder)
    for file in ("preprocessor_config.json", "processor_config.json"):
        path = folder / file
        if path.is_file():
            content = json.loads(path.read_text("utf-8"))
            target = content.get("image_processor", content)
            target.update(SIZES[name])
            path.write_text(json.dumps(content), "utf-8")


def _apply(config: Any, changes: Mapping[str, Any]) -> None:
    for key, value in changes.items():
        if isinstance(value, Mapping) and not isinstance(getattr(config, key), dict):
            _apply(getattr(config, key), value)
        else:
            setattr(config, key, value)
