"""Diffusion pipelines with random weights: the real classes, some hundred thousand parameters.

Latents are an eighth of an image's side and packed two by two, as in the large models, so sizes
are multiples of 16 here, too. Weights are wider than the libraries draw them: with their own ones
neither words nor seeds would matter to the image.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    FluxKontextPipeline,
    FluxPipeline,
    FluxTransformer2DModel,
    QwenImageEditPipeline,
    QwenImageEditPlusPipeline,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
    ZImagePipeline,
    ZImageTransformer2DModel,
)
from safetensors.torch import save_file
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2VLImageProcessor,
    Qwen2VLProcessor,
    Qwen2VLVideoProcessor,
    Qwen3Config,
    Qwen3Model,
    T5Config,
    T5EncoderModel,
)

HIDDEN = 32
QWEN_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LATENT_CHANNELS = 4


def byte_tokenizer(special, pad, *, end=None, longest=None):
    """A tokenizer whose words are single bytes."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
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
    settings = {} if longest is None else {"model_max_length": longest}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token=pad, eos_token=end or pad, **settings
    )


def _wide(model, scale=4.0):
    """Linear and convolution weights made wider than they were drawn."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and "embed" not in name:
                weight.mul_(scale if weight.std() < 0.15 else 1.0)
    return model.eval()


def _scheduler(**settings):
    return FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True, **settings)


@lru_cache
def _flux_text():
    torch.manual_seed(1)
    clip = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=300,
            hidden_size=HIDDEN,
            intermediate_size=37,
            num_hidden_layers=1,
            num_attention_heads=4,
            max_position_embeddings=77,
            projection_dim=HIDDEN,
            bos_token_id=0,
            eos_token_id=1,
            initializer_factor=3.0,
        )
    )
    t5 = T5EncoderModel(
        T5Config(
            vocab_size=300,
            d_model=HIDDEN,
            d_ff=37,
            d_kv=8,
            num_layers=1,
            num_heads=4,
            initializer_factor=1.0,
            is_encoder_decoder=False,
        )
    )
    special = ("<pad>", "</s>")
    return {
        "text_encoder": clip.eval(),
        "tokenizer": byte_tokenizer(special, "<pad>", end="</s>", longest=77),
        "text_encoder_2": t5.eval(),
        "tokenizer_2": byte_tokenizer(special, "<pad>", end="</s>", longest=512),
    }


def _autoencoder():
    torch.manual_seed(2)
    return _wide(
        AutoencoderKL(
            block_out_channels=(8, 8, 8, 8),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=LATENT_CHANNELS,
            norm_num_groups=4,
            layers_per_block=1,
            use_quant_conv=False,
            use_post_quant_conv=False,
            scaling_factor=1.0,
            shift_factor=0.1,
            mid_block_add_attention=False,
        ),
        2.0,
    )


def _flux_transformer(*, guidance):
    torch.manual_seed(3)
    return _wide(
        FluxTransformer2DModel(
            patch_size=1,
            in_channels=4 * LATENT_CHANNELS,
            num_layers=2,
            num_single_layers=2,
            attention_head_dim=16,
            num_attention_heads=2,
            joint_attention_dim=HIDDEN,
            pooled_projection_dim=HIDDEN,
            axes_dims_rope=(4, 4, 8),
            guidance_embeds=guidance,
        ),
        1.5,
    )


def save_flux(folder: Path, *, guidance: bool = True) -> Path:
    """FLUX.1 (with `guidance`, as dev is; without, as schnell)."""
    FluxPipeline(
        scheduler=_scheduler(),
        vae=_autoencoder(),
        transformer=_flux_transformer(guidance=guidance),
        **_flux_text(),
    ).save_pretrained(folder)
    return folder


def save_kontext(folder: Path) -> Path:
    """FLUX.1 Kontext."""
    FluxKontextPipeline(
        scheduler=_scheduler(),
        vae=_autoencoder(),
        transformer=_flux_transformer(guidance=True),
        **_flux_text(),
    ).save_pretrained(folder)
    return folder


def _qwen_text():
    tokenizer = byte_tokenizer(QWEN_TOKENS, "<|endoftext|>")
    tokenizer.chat_template = CHAT_TEMPLATE
    ids = dict(zip(QWEN_TOKENS, tokenizer.convert_tokens_to_ids(list(QWEN_TOKENS)), strict=True))
    torch.manual_seed(4)
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": HIDDEN,
            "intermediate_size": 64,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e4,
                "mrope_section": [1, 1, 2],
            },
            "initializer_range": 0.3,
            "bos_token_id": 0,
            "eos_token_id": 2,
        },
        vision_config={
            "depth": 2,
            "hidden_size": HIDDEN,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": HIDDEN,
            "patch_size": 14,
            "fullatt_block_indexes": [1],
            "initializer_range": 0.3,
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
    )
    return {
        "tokenizer": tokenizer,
        "text_encoder": Qwen2_5_VLForConditionalGeneration(config).eval(),
    }


def _qwen_image_parts():
    torch.manual_seed(5)
    vae = AutoencoderKLQwenImage(
        base_dim=8,
        z_dim=LATENT_CHANNELS,
        dim_mult=[1, 1, 2, 2],
        num_res_blocks=1,
        temperal_downsample=[False, True, True],
        latents_mean=[0.1, -0.1, 0.2, 0.0],
        latents_std=[1.0, 1.2, 0.9, 1.1],
    )
    transformer = QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=4 * LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=HIDDEN,
        axes_dims_rope=(8, 4, 4),
    )
    return {
        "vae": vae.eval(),
        "transformer": _wide(transformer, 1.5),
        "scheduler": _scheduler(),
    }


def save_qwen_image(folder: Path) -> Path:
    """Qwen-Image, from words."""
    QwenImagePipeline(**_qwen_text(), **_qwen_image_parts()).save_pretrained(folder)
    return folder


def save_qwen_edit(folder: Path, *, plus: bool) -> Path:
    """Qwen-Image-Edit: the first (`plus` false), or 2509 and later."""
    text = _qwen_text()
    processor = Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(min_pixels=28 * 28, max_pixels=56 * 56),
        tokenizer=text["tokenizer"],
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=CHAT_TEMPLATE,
    )
    pipeline = QwenImageEditPlusPipeline if plus else QwenImageEditPipeline
    pipeline(**text, **_qwen_image_parts(), processor=processor).save_pretrained(folder)
    return folder


def save_z_image(folder: Path) -> Path:
    """Z-Image."""
    tokenizer = byte_tokenizer(QWEN_TOKENS, "<|endoftext|>")
    tokenizer.chat_template = CHAT_TEMPLATE
    torch.manual_seed(6)
    encoder = Qwen3Model(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=HIDDEN,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            max_position_embeddings=1024,
            initializer_range=0.3,
            bos_token_id=0,
            eos_token_id=2,
        )
    )
    transformer = ZImageTransformer2DModel(
        in_channels=LATENT_CHANNELS,
        dim=HIDDEN,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=HIDDEN,
        axes_dims=[4, 6, 6],
        axes_lens=[1024, 64, 64],
    )
    with torch.no_grad():  # the library leaves these uninitialised
        for name, weight in transformer.named_parameters():
            if "pad_token" in name:
                weight.normal_(std=0.1)
    ZImagePipeline(
        scheduler=_scheduler(),
        vae=_autoencoder(),
        text_encoder=encoder.eval(),
        tokenizer=tokenizer,
        transformer=_wide(transformer, 1.5),
    ).save_pretrained(folder)
    return folder


def save_qwen_lora(folder: Path, *, rank: int = 2, size: float = 0.5) -> Path:
    """A LoRA of the transformer of Qwen-Image, in the form in which the few-step ones come."""
    draw = torch.Generator().manual_seed(7)
    state = {}
    for block in range(2):
        for part in ("to_q", "to_k", "to_v", "to_out.0"):
            key = f"transformer_blocks.{block}.attn.{part}"
            state[f"{key}.lora_down.weight"] = torch.randn(rank, HIDDEN, generator=draw)
            state[f"{key}.lora_up.weight"] = size * torch.randn(HIDDEN, rank, generator=draw)
            state[f"{key}.alpha"] = torch.tensor(float(rank))
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / "few-steps.safetensors")
    return folder
