"""RAM and RAM++ with random weights, in the layout of the authors' files.

`Reference` is a second, plain way to the same numbers: its modules bear the names of the official
checkpoints, and windows, shifts and attention are written out.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import nn

SIDE, PATCH, WINDOW = 64, 4, 4
WIDTH, DEPTHS, HEADS = 16, (2, 2, 2), (2, 4, 4)
LABEL, HIDDEN, INNER, QUERY_HEADS = 24, 32, 48, 4
DESCRIPTIONS = 51
TAGS = ("dog", "cat", "sky", "red panda", "frisbee", "rubik's cube", "sit")


class Attention(nn.Module):
    """Attention within one window."""

    def __init__(self, dim, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * WINDOW - 1) ** 2, heads))
        self.register_buffer("relative_position_index", torch.zeros(WINDOW**2, WINDOW**2).long())
        for a in range(WINDOW**2):
            for b in range(WINDOW**2):
                down, right = a // WINDOW - b // WINDOW, a % WINDOW - b % WINDOW
                place = (down + WINDOW - 1) * (2 * WINDOW - 1) + right + WINDOW - 1
                self.relative_position_index[a, b] = place

    def forward(self, x, area):
        """X [WINDOW**2, dim]; `area` numbers the part of the image each position came from."""
        dim = x.shape[1] // self.heads
        query, key, value = self.qkv(x).split(x.shape[1], 1)
        out = []
        for head in range(self.heads):
            own = slice(head * dim, (head + 1) * dim)
            logits = query[:, own] @ key[:, own].T / math.sqrt(dim)
            logits = logits + self.relative_position_bias_table[self.relative_position_index, head]
            logits = logits - 100.0 * (area[:, None] != area[None, :])
            out.append(logits.softmax(1) @ value[:, own])
        return self.proj(torch.cat(out, 1))


class Mlp(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.fc1 = nn.Linear(dim, 4 * dim)
        self.fc2 = nn.Linear(4 * dim, dim)

    def forward(self, x):
        return self.fc2(nn.functional.gelu(self.fc1(x)))


class Block(nn.Module):
    def __init__(self, dim, heads, side, shifted):
        super().__init__()
        self.shift = WINDOW // 2 if shifted and side > WINDOW else 0
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.attn, self.mlp = Attention(dim, heads), Mlp(dim)
        self.side = side
        if self.shift:
            # The official file holds them; only their number of windows is looked at.
            self.register_buffer("attn_mask", torch.zeros((side // WINDOW) ** 2, 16, 16))

    def forward(self, x):
        """X [side, side, dim]."""
        side, shift = self.side, self.shift
        y = self.norm1(x)
        area = torch.zeros(side, side)
        if shift:
            y = torch.roll(y, (-shift, -shift), (0, 1))
            # Where the torus was cut, neighbours are strangers.
            strip = torch.zeros(side)
            strip[side - WINDOW : side - shift] = 1
            strip[side - shift :] = 2
            area = strip[:, None] * 3 + strip[None, :]
        out = torch.zeros_like(y)
        for top in range(0, side, WINDOW):
            for left in range(0, side, WINDOW):
                part = (slice(top, top + WINDOW), slice(left, left + WINDOW))
                window = self.attn(y[part].reshape(WINDOW**2, -1), area[part].reshape(-1))
                out[part] = window.reshape(WINDOW, WINDOW, -1)
        x = x + torch.roll(out, (shift, shift), (0, 1))
        return x + self.mlp(self.norm2(x))


class Merging(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.norm = nn.LayerNorm(4 * dim)
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x):
        four = [x[0::2, 0::2], x[1::2, 0::2], x[0::2, 1::2], x[1::2, 1::2]]
        return self.reduction(self.norm(torch.cat(four, -1)))


class Layer(nn.Module):
    def __init__(self, dim, heads, side, depth, *, last):
        super().__init__()
        self.blocks = nn.ModuleList(Block(dim, heads, side, i % 2 == 1) for i in range(depth))
        if not last:
            self.downsample = Merging(dim)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.downsample(x) if hasattr(self, "downsample") else x


class PatchEmbed(nn.Module):
    def __init__(self):
        super().__init__()
        self.proj = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        self.norm = nn.LayerNorm(WIDTH)


class Swin(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch_embed = PatchEmbed()
        side, last = SIDE // PATCH, len(DEPTHS) - 1
        self.layers = nn.ModuleList(
            Layer(WIDTH * 2**i, HEADS[i], side // 2**i, DEPTHS[i], last=i == last)
            for i in range(len(DEPTHS))
        )
        self.norm = nn.LayerNorm(WIDTH * 2**last)

    def forward(self, image):
        """[3, SIDE, SIDE] to [1 + tokens, dim], the mean first."""
        x = self.patch_embed.norm(self.patch_embed.proj(image[None])[0].permute(1, 2, 0))
        for layer in self.layers:
            x = layer(x)
        x = self.norm(x.flatten(0, 1))
        return torch.cat([x.mean(0, keepdim=True), x])


def named(**modules):
    """A module with these children; for names such as `self` and `LayerNorm`."""
    return nn.ModuleDict(modules)


class Reference(nn.Module):
    """One image at a time, as the authors' code computes it."""

    def __init__(self, *, plus):
        super().__init__()
        self.plus = plus
        self.visual_encoder = Swin()
        self.image_proj = nn.Linear(WIDTH * 2 ** (len(DEPTHS) - 1), LABEL)
        self.label_embed = nn.Parameter(
            torch.zeros(len(TAGS) * (DESCRIPTIONS if plus else 1), LABEL)
        )
        self.wordvec_proj = nn.Linear(LABEL, HIDDEN)
        self.fc = nn.Linear(HIDDEN, 1)
        if plus:
            self.reweight_scale = nn.Parameter(torch.tensor(1 / 0.07).log())
        self.tagging_head = named(
            encoder=named(layer=nn.ModuleList(self._layer() for _ in range(2)))
        )

    @staticmethod
    def _layer():
        return named(
            crossattention=named(
                self=named(
                    query=nn.Linear(HIDDEN, HIDDEN),
                    key=nn.Linear(LABEL, HIDDEN),
                    value=nn.Linear(LABEL, HIDDEN),
                ),
                output=named(
                    dense=nn.Linear(HIDDEN, HIDDEN), LayerNorm=nn.LayerNorm(HIDDEN, eps=1e-12)
                ),
            ),
            intermediate=named(dense=nn.Linear(HIDDEN, INNER)),
            output=named(dense=nn.Linear(INNER, HIDDEN), LayerNorm=nn.LayerNorm(HIDDEN, eps=1e-12)),
        )

    def forward(self, image):
        """Logits [tags] of a normalised [3, SIDE, SIDE] image."""
        tokens = self.image_proj(self.visual_encoder(image))
        labels = self.label_embed
        if self.plus:
            overall = tokens[0] / tokens[0].norm()
            mixed = []
            for tag in range(len(TAGS)):
                own = labels[tag * DESCRIPTIONS : (tag + 1) * DESCRIPTIONS]
                weights = (self.reweight_scale.exp() * (own @ overall)).softmax(0)
                mixed.append((weights[:, None] * own).sum(0))
            labels = torch.stack(mixed)
        x = torch.relu(self.wordvec_proj(labels))
        dim = HIDDEN // QUERY_HEADS
        for layer in self.tagging_head["encoder"]["layer"]:
            cross, after = layer["crossattention"]["self"], layer["crossattention"]["output"]
            query, key, value = cross["query"](x), cross["key"](tokens), cross["value"](tokens)
            seen = []
            for head in range(QUERY_HEADS):
                own = slice(head * dim, (head + 1) * dim)
                weights = (query[:, own] @ key[:, own].T / math.sqrt(dim)).softmax(1)
                seen.append(weights @ value[:, own])
            x = after["LayerNorm"](after["dense"](torch.cat(seen, 1)) + x)
            inner = nn.functional.gelu(layer["intermediate"]["dense"](x))
            x = layer["output"]["LayerNorm"](layer["output"]["dense"](inner) + x)
        return self.fc(x)[:, 0]


def reference(*, plus: bool, seed: int = 0) -> Reference:
    """A reference whose weights are wide enough that every part of it matters."""
    model = Reference(plus=plus)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name == "reweight_scale":
                continue
            noise = torch.randn(weight.shape, generator=generator)
            is_norm = weight.ndim == 1 and name.endswith("weight")
            spread = 3.0 if name == "label_embed" else 0.3
            weight.copy_(1 + 0.1 * noise if is_norm else spread * noise)
    return model.eval()


def official_weights(model: Reference) -> dict[str, torch.Tensor]:
    """The state dict as the authors' files hold it."""
    weights = dict(model.state_dict())
    if not model.plus:
        weights["tag_encoder.encoder.layer.0.output.dense.weight"] = torch.zeros(3, 3)
        weights["text_decoder.cls.predictions.bias"] = torch.zeros(5)
    return weights


def save_ram(folder: Path, *, plus: bool = True, seed: int = 0) -> dict[str, str]:
    """A checkpoint and both lists in `folder`; the settings of `Ram` that name them."""
    name = "ram_plus_swin_large_14m.pth" if plus else "ram_swin_large_14m.pth"
    model = reference(plus=plus, seed=seed)
    torch.save({"model": official_weights(model)}, folder / name)
    # As in the official list, the last line has no end.
    (folder / "ram_tag_list.txt").write_text("\n".join(TAGS))
    (folder / "ram_tag_list_threshold.txt").write_text("\n".join(["0.5"] * len(TAGS)))
    return {
        "model": str(folder),
        "file": name,
        "tag_list": str(folder / "ram_tag_list.txt"),
        "thresholds": str(folder / "ram_tag_list_threshold.txt"),
        "image_size": SIDE,
    }
