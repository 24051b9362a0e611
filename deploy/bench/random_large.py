"""RAM++ and Big-LaMa with random weights of their published sizes, in the layout of their files.

The two of `removal` that no library has a class for. RAM++ (arXiv 2310.15200): Swin-L at 384 px,
4,585 tags of 51 descriptions. Big-LaMa (arXiv 2109.07161): 64 channels, three halvings, 18 residual
blocks of two fast Fourier convolutions, three quarters of the channels global.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from stages.backends.locate.ram_network import DESCRIPTIONS, Architecture, RamNetwork, official_key

NUM_TAGS = 4585
_RAM_PLUS = Architecture(
    swin={
        "image_size": 384, "patch_size": 4, "embed_dim": 192, "depths": [2, 2, 18, 2],
        "num_heads": [6, 12, 24, 48], "window_size": 12, "mlp_ratio": 4.0, "layer_norm_eps": 1e-5,
    },
    label_dim=512, hidden=768, feed_forward=3072, num_layers=2,
    num_vectors=NUM_TAGS * DESCRIPTIONS, plus=True,
)  # fmt: skip


def save_ram_plus(folder: Path, tags: Sequence[str]) -> dict[str, Any]:
    """Checkpoint and lists; the settings that name them. Only `tags` are ever found."""
    torch.manual_seed(0)
    model = RamNetwork(_RAM_PLUS)
    nn.init.normal_(model.label_embed)
    nn.init.zeros_(model.reweight_scale)
    weights: dict[str, Tensor] = {}
    thirds: dict[str, dict[int, Tensor]] = {}
    for name, value in model.state_dict().items():
        key, part = official_key(name)
        if part is None:
            weights[key] = value
        else:
            thirds.setdefault(key, {})[part] = value
    for key, parts in thirds.items():
        weights[key] = torch.cat([parts[number] for number in range(3)])
    torch.save({"model": weights}, folder / "ram_plus_swin_large_14m.pth")
    names = [*tags, *(f"tag {number}" for number in range(len(tags), NUM_TAGS))]
    least = ["0"] * len(tags) + ["1"] * (NUM_TAGS - len(tags))
    (folder / "tags.txt").write_text("\n".join(names), "utf-8")
    (folder / "thresholds.txt").write_text("\n".join(least), "utf-8")
    return {
        "model": str(folder),
        "tag_list": str(folder / "tags.txt"),
        "thresholds": str(folder / "thresholds.txt"),
    }


class _Spectral(nn.Module):
    """Global to global: a 1x1 convolution of the spectrum between two of the image."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.narrow = nn.Sequential(nn.Conv2d(width, half, 1), nn.BatchNorm2d(half), nn.ReLU())
        self.mix = nn.Sequential(nn.Conv2d(2 * half, 2 * half, 1), nn.BatchNorm2d(2 * half))
        self.widen = nn.Conv2d(half, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.narrow(x)
        # The transform has no 16-bit form for all sizes.
        spectrum = torch.fft.rfftn(x.float(), dim=[-2, -1], norm="ortho")
        both = torch.cat([spectrum.real, spectrum.imag], dim=1).to(x.dtype)
        real, imaginary = torch.chunk(torch.relu(self.mix(both)).float(), 2, dim=1)
        back = torch.fft.irfftn(
            torch.complex(real, imaginary), s=x.shape[-2:], dim=[-2, -1], norm="ortho"
        )
        return self.widen(x + back.to(x.dtype))


class _Fourier(nn.Module):
    """A fast Fourier convolution: local and global channels, each from both."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.local = width // 4
        far = width - self.local
        self.near_near = nn.Conv2d(self.local, self.local, 3, padding=1, padding_mode="reflect")
        self.near_far = nn.Conv2d(self.local, far, 3, padding=1, padding_mode="reflect")
        self.far_near = nn.Conv2d(far, self.local, 3, padding=1, padding_mode="reflect")
        self.far_far = _Spectral(far)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        near, far = x[:, : self.local], x[:, self.local :]
        made = [self.near_near(near) + self.far_near(far), self.near_far(near) + self.far_far(far)]
        return torch.relu(self.norm(torch.cat(made, dim=1)))


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = _Fourier(width), _Fourier(width)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(self.first(x))


class BigLama(nn.Module):
    """(image [N, 3, H, W] in 0..1, mask [N, 1, H, W]) to image; H and W multiples of 8."""

    def __init__(self, width: int = 64, blocks: int = 18) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(4, width, 7, padding=3, padding_mode="reflect")]
        widths = [width << number for number in range(4)]
        for small, large in pairwise(widths):
            layers += [nn.BatchNorm2d(small), nn.ReLU()]
            layers += [nn.Conv2d(small, large, 3, stride=2, padding=1)]
        layers += [_Block(widths[-1]) for _ in range(blocks)]
        for large, small in pairwise(reversed(widths)):
            layers += [nn.ConvTranspose2d(large, small, 3, 2, padding=1, output_padding=1)]
            layers += [nn.BatchNorm2d(small), nn.ReLU()]
        layers += [nn.Conv2d(width, 3, 7, padding=3, padding_mode="reflect"), nn.Sigmoid()]
        self.layers = nn.Sequential(*layers)

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        """See the class."""
        made = self.layers(torch.cat([image * (1 - mask), mask], dim=1))
        return mask * made + (1 - mask) * image


def save_big_lama(path: Path) -> Path:
    """The network as a TorchScript file."""
    torch.manual_seed(0)
    torch.jit.save(torch.jit.script(BigLama().eval()), str(path))
    return path
