"""What is drawn for a row: a crop, the order of two images, noise. Knows seeds and pixels.

All of it follows from the run's seed, the pair's id and the epoch, so policy and reference see the
same, and a resumed run draws the same again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from trainer.families import Pixels
from trainer.losses.views import Images, View

CROP_AREA = (0.01, 0.2)
"""Share of the area that a crop keeps, drawn evenly (mDPO: modeling_bunny_phi.py:2358-2364)."""
CROP_RATIO = (3 / 4, 4 / 3)
"""Width by height of a crop, its logarithm drawn evenly, as torchvision's RandomResizedCrop."""
NOISE_STEP = 500
"""Diffusion step of a noised image, from 0 (CHiP: scripts/chip.sh --diffusion_step,
muffin/train/train_utils.py:encode_multimodal_preference_sample)."""
NOISE_STEPS = 1000
"""Steps of the schedule."""
NOISE_BETAS = (1e-5, 5e-3)
"""Share of noise that a step adds: along a logistic curve from -6 to 6 between these two
(CHiP: muffin/train/train_utils.py:add_diffusion_noise)."""


class CropBox(NamedTuple):
    """Pixels [left, right) by [top, bottom) of the chosen image."""

    left: int
    top: int
    right: int
    bottom: int


@dataclass(frozen=True, slots=True)
class Draws:
    """What was drawn for a row in an epoch."""

    chosen_first: bool
    """Whether the chosen image is the first of two."""
    crop: CropBox | None
    """What the crop keeps, where a view shows one."""
    noise: int
    """Seed of the noise on a noised image."""

    def key(self, view: View) -> str:
        """The draw that this view depends on, as text; "" where it depends on none."""
        if view.images is Images.BOTH:
            return "chosen first" if self.chosen_first else "rejected first"
        if view.images is Images.CROP and self.crop is not None:
            return "crop " + ",".join(map(str, self.crop))
        if view.images is Images.NOISED:
            return f"noise {self.noise}"
        return ""


def draw_crop(seed: int, size: tuple[int, int]) -> CropBox:
    """A box that keeps 1 to 20 % of an image of (width, height), anywhere in it."""
    width, height = size
    random = np.random.Generator(np.random.PCG64(seed))
    area = random.uniform(*CROP_AREA) * width * height
    ratio = math.exp(random.uniform(math.log(CROP_RATIO[0]), math.log(CROP_RATIO[1])))
    wide = min(width, max(1, round(math.sqrt(area * ratio))))
    tall = min(height, max(1, round(math.sqrt(area / ratio))))
    left = int(random.integers(width - wide + 1))
    top = int(random.integers(height - tall + 1))
    return CropBox(left, top, left + wide, top + tall)


def noised(pixels: Pixels, seed: int, *, frames: int = 1) -> Pixels:
    """An image as the model takes it, under the noise of `NOISE_STEP`.

    The noise is added to the processor's output, as CHiP does, so tiles that overlap get noise of
    their own. `frames` says how often every patch stands in its numbers [patches, 3 * frames * k]:
    a still image that a video model sees as several frames has the same noise in all.
    """
    signal, noise = _shares()
    values = pixels.tensors["pixel_values"]
    random = np.random.Generator(np.random.PCG64(seed))
    drawn: NDArray[np.float32]
    if frames == 1:
        drawn = random.standard_normal(values.shape, np.float32)
    else:
        patches, numbers = values.shape
        once = random.standard_normal((patches, 3, 1, numbers // (3 * frames)), np.float32)
        drawn = np.repeat(once, frames, 2).reshape(values.shape)
    changed = (signal * values + noise * torch.from_numpy(drawn)).to(values.dtype)
    return replace(pixels, tensors={**pixels.tensors, "pixel_values": changed})


@cache
def _shares() -> tuple[float, float]:
    """Factors of image and noise at `NOISE_STEP`; their squares sum to 1."""
    low, high = NOISE_BETAS
    betas = low + (high - low) / (1 + np.exp(-np.linspace(-6, 6, NOISE_STEPS)))
    kept = float(np.cumprod(1 - betas)[NOISE_STEP])
    return math.sqrt(kept), math.sqrt(1 - kept)
