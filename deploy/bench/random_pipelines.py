"""Diffusion pipelines with random weights, in memory: at the published sizes, or small."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    QwenImageEditPipeline,
    QwenImageEditPlusPipeline,
    QwenImageTransformer2DModel,
)
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    T5Config,
    T5EncoderModel,
)

QWEN_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)


@dataclass(frozen=True)
class Dims:
    """Sizes of the parts; the defaults are those of FLUX.1-dev and Qwen-Image-Edit."""

    flux_layers: tuple[int, int] = (19, 38)
    qwen_layers: int = 60
    heads: int = 24
    head: int = 128
    axes: tuple[int, int, int] = (16, 56, 56)
    t5: tuple[int, int, int, int] = (4096, 10240, 24, 64)
    clip: tuple[int, int, int, int] = (768, 3072, 12, 12)
    vae: tuple[int, ...] = (128, 256, 512, 512)
    vae_groups: int = 32
    latents: int = 16
    text: tuple[int, int, int, int, int] = (3584, 18944, 28, 28, 4)
    vision: tuple[int, int, int, int] = (1280, 3420, 32, 16)
    qwen_vae: int = 96


FULL = Dims()
SMALL = Dims(
    flux_layers=(2, 4),
    qwen_layers=2,
    heads=4,
    head=32,
    axes=(8, 12, 12),
    t5=(128, 256, 4, 4),
    clip=(64, 128, 2, 2),
    vae=(8, 16, 16, 16),
    vae_groups=4,
    text=(128, 256, 4, 4, 2),
    vision=(64, 128, 4, 2),
    qwen_vae=8,
)


def random_pipeline(family: str, dims: Dims, device: str, dtype: torch.dtype) -> Any:
    """A pipeline drawn from seed 0, made on its device: "flux", "qwen_edit" or "qwen_edit_plus"."""
    torch.manual_seed(0)
    usual = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            pipe = _flux(dims) if family == "flux" else _qwen_edit(dims, plus="plus" in family)
    finally:
        torch.set_default_dtype(usual)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.to(dtype).eval().requires_grad_(False)  # noqa: FBT003
    return pipe


def _tokenizer(special: tuple[str, ...], pad: str, longest: int, end: str | None = None) -> Any:
    """Words of single bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=[AddedToken(token, normalized=False, special=True) for token in special],
    )
    tokenizer.train_from_iterator([], trainer)
    if end is not None:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"$A {end}", special_tokens=[(end, tokenizer.token_to_id(end))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=pad, eos_token=end or pad, model_max_length=longest
    )


def _flux(dims: Dims) -> FluxPipeline:
    wide, inner, depth, heads = dims.clip
    clip = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=wide,
        intermediate_size=inner,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        projection_dim=wide,
        max_position_embeddings=77,
        bos_token_id=0,
        eos_token_id=1,
    )
    width, inner_t5, layers, t5_heads = dims.t5
    t5 = T5Config(
        vocab_size=32128,
        d_model=width,
        d_ff=inner_t5,
        d_kv=width // t5_heads,
        num_layers=layers,
        num_heads=t5_heads,
        feed_forward_proj="gated-gelu",
        is_encoder_decoder=False,
    )
    ends = ("<pad>", "</s>")
    return FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, shift=3.0),
        vae=AutoencoderKL(
            block_out_channels=dims.vae,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=dims.latents,
            layers_per_block=2,
            norm_num_groups=dims.vae_groups,
            use_quant_conv=False,
            use_post_quant_conv=False,
            scaling_factor=0.3611,
            shift_factor=0.1159,
        ),
        text_encoder=CLIPTextModel(clip),
        tokenizer=_tokenizer(ends, "<pad>", 77, "</s>"),
        text_encoder_2=T5EncoderModel(t5),
        tokenizer_2=_tokenizer(ends, "<pad>", 512, "</s>"),
        transformer=FluxTransformer2DModel(
            in_channels=4 * dims.latents,
            num_layers=dims.flux_layers[0],
            num_single_layers=dims.flux_layers[1],
            attention_head_dim=dims.head,
            num_attention_heads=dims.heads,
            joint_attention_dim=width,
            pooled_projection_dim=wide,
            guidance_embeds=True,
            axes_dims_rope=dims.axes,
        ),
    )


def _qwen_text(dims: Dims, ids: dict[str, int]) -> Qwen2_5_VLForConditionalGeneration:
    """The model that reads words and images, with the numbers of its special tokens."""
    width, inner, depth, heads, shared = dims.text
    seen, seen_inner, seen_depth, seen_heads = dims.vision
    sections = width // heads // 2
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": 152064,
            "hidden_size": width,
            "intermediate_size": inner,
            "num_hidden_layers": depth,
            "num_attention_heads": heads,
            "num_key_value_heads": shared,
            "bos_token_id": 0,
            "eos_token_id": 2,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [sections // 4, sections * 3 // 8, sections * 3 // 8],
            },
        },
        vision_config={
            "depth": seen_depth,
            "hidden_size": seen,
            "intermediate_size": seen_inner,
            "num_heads": seen_heads,
            "out_hidden_size": width,
            "fullatt_block_indexes": list(range(seen_depth // 4 - 1, seen_depth, seen_depth // 4)),
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    return Qwen2_5_VLForConditionalGeneration(config)


def _qwen_edit(dims: Dims, *, plus: bool) -> Any:
    tokenizer = _tokenizer(QWEN_TOKENS, "<|endoftext|>", 100_000)
    ids = dict(zip(QWEN_TOKENS, tokenizer.convert_tokens_to_ids(list(QWEN_TOKENS)), strict=True))
    pipeline = QwenImageEditPlusPipeline if plus else QwenImageEditPipeline
    return pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        vae=AutoencoderKLQwenImage(
            base_dim=dims.qwen_vae,
            z_dim=dims.latents,
            latents_mean=[0.0] * dims.latents,
            latents_std=[1.0] * dims.latents,
        ),
        text_encoder=_qwen_text(dims, ids),
        tokenizer=tokenizer,
        processor=Qwen2VLProcessor(
            image_processor=Qwen2VLImageProcessor(),
            tokenizer=tokenizer,
            video_processor=Qwen2VLVideoProcessor(),
        ),
        transformer=QwenImageTransformer2DModel(
            in_channels=4 * dims.latents,
            out_channels=dims.latents,
            num_layers=dims.qwen_layers,
            attention_head_dim=dims.head,
            num_attention_heads=dims.heads,
            joint_attention_dim=dims.text[0],
            axes_dims_rope=dims.axes,
        ),
    )
