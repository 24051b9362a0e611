"""A scripted network with LaMa's form: three halvings, a Fourier layer, and back."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn


class FourierInpainter(nn.Module):
    """(image [N, 3, H, W] in 0..1, mask [N, 1, H, W]) to image; H and W must be multiples of 8."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.down = nn.Sequential(
            nn.Conv2d(4, width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, stride=2, padding=1),
        )
        self.spectral = nn.Conv2d(2 * width, 2 * width, 1)
        self.up = nn.Sequential(
            nn.ConvTranspose2d(width, width, 2, stride=2),
            nn.ReLU(),
            nn.ConvTranspose2d(width, width, 2, stride=2),
            nn.ReLU(),
            nn.ConvTranspose2d(width, 3, 2, stride=2),
        )

    def forward(self, image: Tensor, mask: Tensor) -> Tensor:
        x = self.down(torch.cat([image * (1 - mask), mask], dim=1))
        spectrum = torch.fft.rfftn(x, dim=[-2, -1], norm="ortho")
        mixed = self.spectral(torch.cat([spectrum.real, spectrum.imag], dim=1))
        real, imaginary = torch.chunk(mixed, 2, dim=1)
        back = torch.fft.irfftn(
            torch.complex(real, imaginary), s=x.shape[-2:], dim=[-2, -1], norm="ortho"
        )
        made = torch.sigmoid(3 * self.up(x + back))
        return mask * made + (1 - mask) * image


def save_lama(path: Path, seed: int = 0) -> Path:
    """The network as a TorchScript file."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = FourierInpainter()
        for weight in network.parameters():
            nn.init.normal_(weight, std=0.4)
        torch.jit.save(torch.jit.script(network.eval()), str(path))
    return path
