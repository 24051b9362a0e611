"""SAM as Meta's package saves it, small and with random weights, and its keys in transformers."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import torch
from segment_anything.modeling import (
    ImageEncoderViT,
    MaskDecoder,
    PromptEncoder,
    Sam,
    TwoWayTransformer,
)

SIDE, WIDTH = 64, 32


def build_tiny(checkpoint: str | None = None) -> Sam:
    """The package's own classes, of the size of `fakes.tiny.sam`."""
    sam = Sam(
        image_encoder=ImageEncoderViT(
            depth=2,
            embed_dim=WIDTH,
            img_size=SIDE,
            mlp_ratio=2,
            norm_layer=partial(torch.nn.LayerNorm, eps=1e-6),
            num_heads=2,
            patch_size=8,
            qkv_bias=True,
            use_rel_pos=True,
            global_attn_indexes=[1],
            window_size=4,
            out_chans=WIDTH,
        ),
        prompt_encoder=PromptEncoder(
            embed_dim=WIDTH,
            image_embedding_size=(SIDE // 8, SIDE // 8),
            input_image_size=(SIDE, SIDE),
            mask_in_chans=4,
        ),
        mask_decoder=MaskDecoder(
            num_multimask_outputs=3,
            transformer=TwoWayTransformer(depth=2, embedding_dim=WIDTH, mlp_dim=64, num_heads=2),
            transformer_dim=WIDTH,
            iou_head_depth=3,
            iou_head_hidden_dim=WIDTH,
        ),
        pixel_mean=[123.675, 116.28, 103.53],
        pixel_std=[58.395, 57.12, 57.375],
    ).eval()
    if checkpoint is not None:
        sam.load_state_dict(torch.load(checkpoint))
    return sam


def save_original_sam(path: Path, seed: int = 0) -> Path:
    """A .pth file."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        sam = build_tiny()
        for weight in sam.parameters():
            if weight.dim() > 1:
                torch.nn.init.normal_(weight, std=0.2)
        torch.save(sam.state_dict(), path)
    return path


RENAMES = (
    (r"^image_encoder\.", "vision_encoder."),
    (r"patch_embed\.proj\.", "patch_embed.projection."),
    (r"^(vision_encoder)\.blocks\.", r"\1.layers."),
    (r"\.norm(\d)\.", r".layer_norm\1."),
    (r"norm_final_attn", "layer_norm_final_attn"),
    (r"neck\.0\.", "neck.conv1."),
    (r"neck\.1\.", "neck.layer_norm1."),
    (r"neck\.2\.", "neck.conv2."),
    (r"neck\.3\.", "neck.layer_norm2."),
    (r"pe_layer\.positional_encoding_gaussian_matrix", "shared_embedding.positional_embedding"),
    (r"point_embeddings\.", "point_embed."),
    (r"mask_downscaling\.0\.", "mask_embed.conv1."),
    (r"mask_downscaling\.1\.", "mask_embed.layer_norm1."),
    (r"mask_downscaling\.3\.", "mask_embed.conv2."),
    (r"mask_downscaling\.4\.", "mask_embed.layer_norm2."),
    (r"mask_downscaling\.6\.", "mask_embed.conv3."),
    (r"output_upscaling\.0\.", "upscale_conv1."),
    (r"output_upscaling\.1\.", "upscale_layer_norm."),
    (r"output_upscaling\.3\.", "upscale_conv2."),
    (r"(iou_prediction_head|mlps\.\d)\.layers\.0\.", r"\1.proj_in."),
    (r"(iou_prediction_head|mlps\.\d)\.layers\.2\.", r"\1.proj_out."),
    (r"(iou_prediction_head|mlps\.\d)\.layers\.1\.", r"\1.layers.0."),
)


def in_transformers(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same weights under the names of `SamModel`."""
    renamed = {}
    for name, value in weights.items():
        for old, new in RENAMES:
            name = re.sub(old, new, name)  # noqa: PLW2901
        renamed[name] = value
    shared = renamed["prompt_encoder.shared_embedding.positional_embedding"]
    renamed["shared_image_embedding.positional_embedding"] = shared
    return renamed
