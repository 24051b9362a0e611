"""SAM and SAM 2 with random weights: the real classes, 64 px wide."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    Sam2Config,
    Sam2HieraDetConfig,
    Sam2MaskDecoderConfig,
    Sam2Model,
    Sam2PromptEncoderConfig,
    Sam2VideoConfig,
    Sam2VideoModel,
    Sam2VisionConfig,
    SamConfig,
    SamImageProcessorPil,
    SamMaskDecoderConfig,
    SamModel,
    SamProcessor,
    SamPromptEncoderConfig,
    SamVisionConfig,
)

SIDE = 64
# Wider than the libraries' 0.02, so that masks have parts and depend on the box.
SPREAD = 0.2


def save_sam(folder: Path, seed: int = 0) -> Path:
    """A SAM checkpoint with its processor."""
    vision = SamVisionConfig(
        hidden_size=32,
        output_channels=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=SIDE,
        patch_size=8,
        global_attn_indexes=[1],
        window_size=4,
        mlp_dim=64,
        num_pos_feats=16,
        initializer_range=SPREAD,
    )
    prompts = SamPromptEncoderConfig(
        hidden_size=32, image_size=SIDE, patch_size=8, mask_input_channels=4
    )
    decoder = SamMaskDecoderConfig(
        hidden_size=32, mlp_dim=64, num_attention_heads=2, iou_head_hidden_dim=32
    )
    config = SamConfig(
        vision_config=vision.to_dict(),
        prompt_encoder_config=prompts.to_dict(),
        mask_decoder_config=decoder.to_dict(),
        initializer_range=SPREAD,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        SamModel(config).save_pretrained(folder)
    square = {"height": SIDE, "width": SIDE}
    processor = SamImageProcessorPil(size={"longest_edge": SIDE}, pad_size=square)
    SamProcessor(processor).save_pretrained(folder)
    return folder


def sam2_parts() -> dict[str, dict]:
    """The configurations that the image and the video model share."""
    backbone = Sam2HieraDetConfig(
        hidden_size=16,
        image_size=[SIDE, SIDE],
        blocks_per_stage=[1, 1, 2, 1],
        embed_dim_per_stage=[16, 32, 64, 128],
        num_attention_heads_per_stage=[1, 2, 4, 8],
        window_size_per_stage=[4, 4, 4, 2],
        global_attention_blocks=[3],
        window_positional_embedding_background_size=[4, 4],
        initializer_range=SPREAD,
    )
    vision = Sam2VisionConfig(
        backbone_config=backbone.to_dict(),
        backbone_channel_list=[128, 64, 32, 16],
        backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
        fpn_hidden_size=32,
        initializer_range=SPREAD,
    )
    prompts = Sam2PromptEncoderConfig(
        hidden_size=32, image_size=SIDE, patch_size=16, mask_input_channels=4
    )
    decoder = Sam2MaskDecoderConfig(
        hidden_size=32, mlp_dim=64, num_attention_heads=2, iou_head_hidden_dim=32
    )
    return {
        "vision_config": vision.to_dict(),
        "prompt_encoder_config": prompts.to_dict(),
        "mask_decoder_config": decoder.to_dict(),
    }


def save_sam2(folder: Path, seed: int = 0, *, video: bool = False) -> Path:
    """A SAM 2 checkpoint with its processor; `video` as the hub has it, with a memory."""
    # Loaded late: they need torchvision.
    from transformers import Sam2ImageProcessor, Sam2Processor

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if video:
            config = Sam2VideoConfig(
                **sam2_parts(),
                image_size=SIDE,
                memory_attention_hidden_size=32,
                memory_attention_num_layers=1,
                memory_attention_feed_forward_hidden_size=32,
                memory_encoder_hidden_size=32,
                memory_encoder_output_channels=16,
                mask_downsampler_embed_dim=32,
                memory_fuser_embed_dim=32,
                memory_fuser_intermediate_dim=32,
                memory_fuser_num_layers=1,
                memory_attention_rope_feat_sizes=[4, 4],
                initializer_range=SPREAD,
            )
            Sam2VideoModel(config).save_pretrained(folder)
        else:
            config = Sam2Config(**sam2_parts(), initializer_range=SPREAD)
            Sam2Model(config).save_pretrained(folder)
    size = {"height": SIDE, "width": SIDE}
    Sam2Processor(Sam2ImageProcessor(size=size)).save_pretrained(folder)
    return folder
