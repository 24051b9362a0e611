"""RAM (arXiv 2306.03514) and RAM++ (arXiv 2310.15200) as one module, filled from their checkpoints.

The image goes through a Swin transformer, that of transformers.
Every tag is a query that looks at the image's tokens in a small decoder, and a linear layer says
whether it is there. RAM has one vector for a tag; RAM++ has 51, of as many descriptions of it, and
weighs them by how alike each is to the image.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, normalize, relu, scaled_dot_product_attention
from transformers import SwinConfig, SwinModel

from stages.backends.weights.checkpoints import CheckpointError

DESCRIPTIONS = 51
"""Descriptions of a tag in RAM++."""
_HEADS = 4
"""Attention heads of the decoder; the one number that no shape tells."""
_BUFFERS = (".relative_position_index", ".attn_mask")
"""Ends of keys that hold no weights: the model works them out."""


@dataclass(frozen=True)
class Architecture:
    """What the shapes of a checkpoint say of its model."""

    swin: Mapping[str, Any]
    """Arguments of `SwinConfig`."""
    label_dim: int
    """Width of the tags' vectors, and of the image's tokens in the decoder: 512."""
    hidden: int
    """Width of the decoder: 768."""
    feed_forward: int
    """Inner width of its feed-forward layers: 3072."""
    num_layers: int
    """Layers of the decoder: 2."""
    num_vectors: int
    """Vectors of all tags: one each in RAM, `DESCRIPTIONS` each in RAM++."""
    plus: bool
    """Whether it is RAM++."""

    @property
    def num_tags(self) -> int:
        """How many tags it knows."""
        return self.num_vectors // DESCRIPTIONS if self.plus else self.num_vectors


def read_architecture(weights: Mapping[str, Tensor], image_size: int) -> Architecture:
    """The architecture behind the weights of an official checkpoint, keys as in the file.

    `image_size` is the side of the images it was trained on; checked against the attention masks
    where the file holds them. CheckpointError for what is no RAM checkpoint.
    """
    encoder = "visual_encoder."
    patch = _shape(weights, f"{encoder}patch_embed.proj.weight", 4)
    depths = [0] * _count(weights, rf"{encoder}layers\.(\d+)\.")
    for layer in range(len(depths)):
        depths[layer] = _count(weights, rf"{encoder}layers\.{layer}\.blocks\.(\d+)\.")
    tables = [
        _shape(weights, f"{encoder}layers.{i}.blocks.0.attn.relative_position_bias_table", 2)
        for i in range(len(depths))
    ]
    window = (math.isqrt(tables[0][0]) + 1) // 2
    widened = _shape(weights, f"{encoder}layers.0.blocks.0.mlp.fc1.weight", 2)
    _check_image_size(weights, image_size, patch[2] * window, len(depths))
    vectors = _shape(weights, "label_embed", 2)
    plus = "reweight_scale" in weights
    if plus and vectors[0] % DESCRIPTIONS:
        raise CheckpointError(
            f"has label_embed of {vectors[0]} rows; RAM++ has {DESCRIPTIONS} for every tag"
        )
    return Architecture(
        swin={
            "image_size": image_size,
            "patch_size": patch[2],
            "embed_dim": patch[0],
            "depths": depths,
            "num_heads": [table[1] for table in tables],
            "window_size": window,
            "mlp_ratio": widened[0] / widened[1],
            "layer_norm_eps": 1e-5,
        },
        label_dim=vectors[1],
        hidden=_shape(weights, "wordvec_proj.weight", 2)[0],
        feed_forward=_shape(weights, "tagging_head.encoder.layer.0.intermediate.dense.weight", 2)[
            0
        ],
        num_layers=_count(weights, r"tagging_head\.encoder\.layer\.(\d+)\."),
        num_vectors=vectors[0],
        plus=plus,
    )


class RamNetwork(nn.Module):
    """Normalised images to one logit for every tag."""

    def __init__(self, shape: Architecture) -> None:
        super().__init__()
        self.shape = shape
        self.visual_encoder = SwinModel(SwinConfig(**shape.swin), add_pooling_layer=False)
        self.image_proj = nn.Linear(self.visual_encoder.num_features, shape.label_dim)
        self.label_embed = nn.Parameter(torch.empty(shape.num_vectors, shape.label_dim))
        self.wordvec_proj = nn.Linear(shape.label_dim, shape.hidden)
        self.layers = nn.ModuleList(_QueryLayer(shape) for _ in range(shape.num_layers))
        self.fc = nn.Linear(shape.hidden, 1)
        if shape.plus:
            self.reweight_scale = nn.Parameter(torch.empty(()))

    def forward(self, pixels: Tensor) -> Tensor:
        """float32 logits [N, tags] of [N, 3, side, side] images."""
        tokens = self.visual_encoder(pixels).last_hidden_state
        tokens = torch.cat([tokens.mean(1, keepdim=True), tokens], 1)
        image = self.image_proj(tokens)
        queries = relu(self.wordvec_proj(self._labels(image[:, 0])))
        for layer in self.layers:
            queries = layer(queries, image)
        logits: Tensor = self.fc(queries).squeeze(-1)
        return logits.float()

    def _labels(self, overall: Tensor) -> Tensor:
        """A vector for every tag, [N, tags, label_dim]; in RAM++ it depends on the image."""
        if not self.shape.plus:
            return self.label_embed.expand(len(overall), -1, -1)
        described = self.label_embed.view(-1, DESCRIPTIONS, self.shape.label_dim)
        alike = normalize(overall, dim=-1) @ self.label_embed.T
        # In float32: the scale, which is above 10, would carry rounding into the exponent.
        logits = self.reweight_scale.float().exp() * alike.float()
        weights = logits.view(len(overall), -1, DESCRIPTIONS).softmax(-1).to(described.dtype)
        return torch.einsum("ntk,tkd->ntd", weights, described)


class _QueryLayer(nn.Module):
    """Cross-attention from tags to the image and a feed-forward layer, both normalised after.

    Tags do not look at each other, so each one's logit is independent of the others.
    """

    def __init__(self, shape: Architecture) -> None:
        super().__init__()
        self.query = nn.Linear(shape.hidden, shape.hidden)
        self.key = nn.Linear(shape.label_dim, shape.hidden)
        self.value = nn.Linear(shape.label_dim, shape.hidden)
        self.attended = nn.Linear(shape.hidden, shape.hidden)
        self.attended_norm = nn.LayerNorm(shape.hidden, eps=1e-12)
        self.widen = nn.Linear(shape.hidden, shape.feed_forward)
        self.narrow = nn.Linear(shape.feed_forward, shape.hidden)
        self.narrow_norm = nn.LayerNorm(shape.hidden, eps=1e-12)

    def forward(self, tags: Tensor, image: Tensor) -> Tensor:
        """[N, tags, hidden] from the same and [N, tokens, label_dim]."""
        query, key, value = (
            x.view(*x.shape[:2], _HEADS, -1).transpose(1, 2)
            for x in (self.query(tags), self.key(image), self.value(image))
        )
        seen = scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        tags = self.attended_norm(self.attended(seen) + tags)
        inner = self.narrow(gelu(self.widen(tags)))
        out: Tensor = self.narrow_norm(inner + tags)
        return out


def load_weights(model: RamNetwork, weights: Mapping[str, Tensor]) -> None:
    """Fill the model from the weights of an official checkpoint, keys as in the file.

    Every weight of the model must be there in its shape, and every key of the file must have a
    place. CheckpointError names the first that has not.
    """
    state, used = {}, set()
    for name, own in model.state_dict().items():
        key, part = official_key(name)
        if key not in weights:
            raise CheckpointError(f"lacks {key}")
        found = weights[key]
        expected = [(1 if part is None else 3) * size for size in own.shape[:1]] + [*own.shape[1:]]
        if list(found.shape) != expected:
            raise CheckpointError(
                f"has {key} of shape {list(found.shape)}; {expected} fits the other weights"
            )
        state[name] = found if part is None else found.chunk(3)[part]
        used.add(key)
    left = sorted(key for key in weights if key not in used and not key.endswith(_BUFFERS))
    if left:
        raise CheckpointError(f"has {len(left)} keys that map to nothing, such as {left[0]}")
    model.load_state_dict(state)


_RENAMED = (
    ("visual_encoder.embeddings.patch_embeddings.projection.", "visual_encoder.patch_embed.proj."),
    ("visual_encoder.embeddings.norm.", "visual_encoder.patch_embed.norm."),
    ("visual_encoder.encoder.layers.", "visual_encoder.layers."),
    ("visual_encoder.layernorm.", "visual_encoder.norm."),
    (".layernorm_before.", ".norm1."),
    (".layernorm_after.", ".norm2."),
    (".attention.o_proj.", ".attn.proj."),
    (".attention.relative_position_bias.", ".attn."),
)
"""Parts of our keys (those of transformers' Swin) and what they are called in the file."""
_DECODER = {
    "query": "crossattention.self.query",
    "key": "crossattention.self.key",
    "value": "crossattention.self.value",
    "attended": "crossattention.output.dense",
    "attended_norm": "crossattention.output.LayerNorm",
    "widen": "intermediate.dense",
    "narrow": "output.dense",
    "narrow_norm": "output.LayerNorm",
}
"""Modules of `_QueryLayer` and what they are called in the file."""


def official_key(name: str) -> tuple[str, int | None]:
    """A key of ours in the file, and which third of it where the file has three in one."""
    if match := re.fullmatch(r"layers\.(\d+)\.(\w+)\.(\w+)", name):
        layer, module, kind = match.groups()
        return f"tagging_head.encoder.layer.{layer}.{_DECODER[module]}.{kind}", None
    for ours, theirs in _RENAMED:
        name = name.replace(ours, theirs)
    if match := re.search(r"\.attention\.([qkv])_proj\.", name):
        return name.replace(match.group(), ".attn.qkv."), "qkv".index(match.group(1))
    return name, None


def _shape(weights: Mapping[str, Tensor], key: str, num_dims: int) -> list[int]:
    if key not in weights:
        raise CheckpointError(f"lacks {key}; is it a RAM or RAM++ checkpoint with a Swin encoder?")
    shape = list(weights[key].shape)
    if len(shape) != num_dims:
        raise CheckpointError(f"has {key} of shape {shape}; {num_dims} dimensions are expected")
    return shape


def _count(weights: Mapping[str, Tensor], pattern: str) -> int:
    """How many numbers the pattern's group takes among the keys."""
    return len({match.group(1) for key in weights if (match := re.match(pattern, key))})


def _check_image_size(
    weights: Mapping[str, Tensor], image_size: int, step: int, num_layers: int
) -> None:
    """`step` is patch size times window; every layer after the first halves the image."""
    least = step * 2 ** (num_layers - 1)
    if image_size % least:
        raise CheckpointError(
            f"asks for images whose side is a multiple of {least}; image_size is {image_size}"
        )
    for key, value in weights.items():
        if match := re.fullmatch(r"visual_encoder\.layers\.(\d+)\.blocks\.\d+\.attn_mask", key):
            # One mask for every window: their number is the square of the windows of a side.
            side = math.isqrt(value.shape[0]) * step * 2 ** int(match.group(1))
            if side != image_size:
                raise CheckpointError(
                    f"was made for images of {side} pixels a side; image_size is {image_size}"
                )
