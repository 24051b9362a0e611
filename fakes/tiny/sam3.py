"""SAM 3 with random weights: the real classes, 56 px wide, with CLIP's tokenizer in small."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    Sam3Config,
    Sam3ImageProcessor,
    Sam3Model,
    Sam3Processor,
    Sam3VideoConfig,
    Sam3VideoModel,
)

from fakes.tiny.clip import tiny_tokenizer

SIDE = 56
WIDTH = 32
QUERIES = 12
# Wider than the library's 0.02, so that scores, boxes and masks depend on image and words.
SPREAD = 0.25


def _parts() -> dict[str, dict]:
    layers = {
        "hidden_size": WIDTH,
        "num_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "initializer_range": SPREAD,
    }
    tokenizer = tiny_tokenizer()
    return {
        "vision_config": {
            "backbone_config": {
                "model_type": "sam3_vit_model",
                "hidden_size": WIDTH,
                "intermediate_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "image_size": SIDE,
                "patch_size": 14,
                "window_size": 2,
                "global_attn_indexes": [1],
                "pretrain_image_size": 28,
                "initializer_range": SPREAD,
            },
            "fpn_hidden_size": WIDTH,
            "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
            "initializer_range": SPREAD,
        },
        "text_config": {
            "model_type": "clip_text_model",
            "vocab_size": len(tokenizer),
            "hidden_size": 24,
            "intermediate_size": 48,
            "projection_dim": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "max_position_embeddings": 32,
            "hidden_act": "gelu",
            "initializer_factor": 3.0,
            "eos_token_id": tokenizer.eos_token_id,
            "bos_token_id": tokenizer.bos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        "geometry_encoder_config": layers,
        "detr_encoder_config": layers,
        "detr_decoder_config": {**layers, "num_queries": QUERIES},
        "mask_decoder_config": {
            "hidden_size": WIDTH,
            "num_upsampling_stages": 3,
            "num_attention_heads": 4,
            "initializer_range": SPREAD,
        },
    }


def save_sam3(folder: Path, seed: int = 0, *, video: bool = False) -> Path:
    """A SAM 3 checkpoint with its processor; `video` as the hub has it, with a tracker."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        config = Sam3Config(**_parts(), initializer_range=SPREAD)
        if video:
            Sam3VideoModel(Sam3VideoConfig(detector_config=config)).save_pretrained(folder)
        else:
            Sam3Model(config).save_pretrained(folder)
    images = Sam3ImageProcessor(size={"height": SIDE, "width": SIDE})
    Sam3Processor(images, tiny_tokenizer()).save_pretrained(folder)
    return folder
