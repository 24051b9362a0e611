"""Textured backgrounds of the synthetic scenes. Muted colours, so that the shapes stand out."""

from __future__ import annotations

from enum import StrEnum

import cv2
import numpy as np
from numpy.typing import NDArray

from stages.pixels import Pixels


class Background(StrEnum):
    """What the shapes lie on; the value completes "on ..."."""

    WOOD = "a wooden floor"
    STRIPES = "a striped cloth"
    SPECKLES = "a speckled stone"
    CLOUDS = "a cloudy background"
    GRADIENT = "a smooth background"


_WOODS = ((176, 137, 96), (150, 112, 78), (196, 164, 124), (120, 92, 70))
_MUTED = (
    (200, 196, 188), (170, 178, 186), (188, 198, 186), (206, 190, 180),
    (150, 150, 156), (222, 216, 200), (120, 126, 132), (164, 152, 146),
)  # fmt: skip


def paint_background(rng: np.random.Generator, kind: Background, side: int) -> Pixels:
    """uint8 [side, side, 3] RGB of one kind."""
    if kind is Background.WOOD:
        light = _wood(rng, side)
        base = np.array(_WOODS[rng.integers(len(_WOODS))], np.float32)
    else:
        light = _LIGHTS[kind](rng, side)
        base = np.array(_MUTED[rng.integers(len(_MUTED))], np.float32)
    grain = rng.integers(-4, 5, (side, side), np.int8).astype(np.float32)
    shade = (1 + light)[:, :, None] * base + grain[:, :, None]
    pixels: Pixels = np.clip(shade + 0.5, 0, 255).astype(np.uint8)
    return pixels


def _noise(rng: np.random.Generator, side: int, columns: int, rows: int) -> NDArray[np.float32]:
    """Smooth noise in -1..1 with this many knots across and down."""
    knots = rng.uniform(-1, 1, (rows, columns)).astype(np.float32)
    return np.asarray(cv2.resize(knots, (side, side), interpolation=cv2.INTER_CUBIC))


def _wood(rng: np.random.Generator, side: int) -> NDArray[np.float32]:
    """Planks with grain along them and dark joints."""
    grain = 0.10 * _noise(rng, side, 6, side // 3) + 0.05 * _noise(rng, side, 24, side // 2)
    num_planks = int(rng.integers(3, 7))
    rows = np.arange(side) * num_planks / side
    tone = rng.uniform(-0.08, 0.08, num_planks).astype(np.float32)
    light = grain + tone[rows.astype(int)][:, None]
    light[rows % 1 < 0.012 * num_planks] -= 0.25
    return np.asarray(light if rng.random() < 0.5 else light.T)


def _stripes(rng: np.random.Generator, side: int) -> NDArray[np.float32]:
    angle, waves = rng.uniform(0, np.pi), rng.uniform(5, 14)
    across, down = (
        (np.arange(side) / side * 2 * np.pi * waves * part).astype(np.float32)
        for part in (np.cos(angle), np.sin(angle))
    )
    # sin(a + b) from the sines of each axis: a table of side * side sines costs 5 ms more.
    wave = np.outer(np.cos(down), np.sin(across)) + np.outer(np.sin(down), np.cos(across))
    weave = 0.04 * _noise(rng, side, side // 4, side // 4)
    return np.asarray(0.13 * np.clip(2 * wave, -1, 1) + weave)


def _speckles(rng: np.random.Generator, side: int) -> NDArray[np.float32]:
    return np.asarray(
        0.16 * _noise(rng, side, side // 4, side // 4)
        + 0.10 * _noise(rng, side, side // 12, side // 12)
        + 0.05 * _noise(rng, side, 4, 4)
    )


def _clouds(rng: np.random.Generator, side: int) -> NDArray[np.float32]:
    return np.asarray(
        0.18 * _noise(rng, side, 4, 4)
        + 0.09 * _noise(rng, side, 9, 9)
        + 0.05 * _noise(rng, side, 24, 24)
    )


def _gradient(rng: np.random.Generator, side: int) -> NDArray[np.float32]:
    angle = rng.uniform(0, 2 * np.pi)
    axis = (np.arange(side) / side - 0.5).astype(np.float32)
    return np.asarray(0.35 * np.add.outer(axis * np.sin(angle), axis * np.cos(angle)), np.float32)


_LIGHTS = {
    Background.STRIPES: _stripes,
    Background.SPECKLES: _speckles,
    Background.CLOUDS: _clouds,
    Background.GRADIENT: _gradient,
}
