"""Oklab, and the basic colour term that people would use for a colour.

Oklab (Ottosson 2020, "A perceptual color space for image processing"): equal distances look about
equally different, L is 0 to 1, chroma about 0 to 0.3, and scaling the light scales L and chroma by
one factor. Knows arrays, not records.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from stages.pixels import Pixels

Floats = NDArray[np.float32]

_EXEMPLARS = {
    "black": ("000000", "1a1a1a", "26221f", "1c1c26"),
    "white": ("ffffff", "e8e8e8", "f0e8dc", "dfe3ea", "d8d4cc"),
    "gray": ("828282", "5c5c5c", "a4a4a4", "bcbcbc", "474747", "7c848c", "8c8680"),
    "red": ("dc1e1e", "b41419", "821414", "e63c32", "5a0f0f", "c8303c"),
    "orange": ("ff8c00", "f06e1e", "e6963c", "d26a10"),
    "yellow": ("ffe114", "ebc828", "faeb78", "c8aa14", "e8d86a"),
    "green": ("1e8c32", "145a28", "6eb446", "506e28", "96c882", "1ea078", "2f4a2a"),
    "blue": ("1e46c8", "14286e", "508cdc", "82b4e6", "325a82", "1496be", "2a3f5c"),
    "purple": ("7828a0", "501e6e", "a064c8", "6e3c78", "8c5ab4"),
    "pink": ("fa96b4", "f064a0", "ffbec8", "dc5a8c", "e8a0b0"),
    "brown": ("784620", "553219", "966037", "aa7850", "3c2819", "be9164", "6a4a36"),
}
"""sRGB examples of what people call by each basic colour term."""


@cache
def _linear_table() -> Floats:
    x = np.arange(256) / 255
    return np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4).astype(np.float32)


@cache
def _gamma_table() -> NDArray[np.uint8]:
    x = np.arange(1 << 14) / ((1 << 14) - 1)
    y = np.where(x <= 0.0031308, 12.92 * x, 1.055 * x ** (1 / 2.4) - 0.055)
    return np.round(y * 255).astype(np.uint8)


_TO_LMS = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ],
    np.float32,
)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ],
    np.float32,
)
_FROM_LAB = np.linalg.inv(_TO_LAB.astype(np.float64)).astype(np.float32)
_FROM_LMS = np.linalg.inv(_TO_LMS.astype(np.float64)).astype(np.float32)


def to_oklab(pixels: Pixels) -> Floats:
    """uint8 sRGB [..., 3] to Oklab, float32 [..., 3]."""
    return _mix(_TO_LAB, np.cbrt(_mix(_TO_LMS, _linear_table()[pixels])))


def to_rgb(lab: Floats) -> Pixels:
    """Oklab [..., 3] to uint8 sRGB, clipped to its gamut."""
    light = np.clip(_to_linear(lab), 0, 1)
    pixels: Pixels = _gamma_table()[np.round(light * ((1 << 14) - 1)).astype(np.uint16)]
    return pixels


def _to_linear(lab: Floats) -> Floats:
    return _mix(_FROM_LMS, _mix(_FROM_LAB, lab) ** 3)


def _mix(matrix: Floats, values: Floats) -> Floats:
    """Apply matrix @ v to every v of [..., 3]; written out: BLAS may round by threads."""
    a, b, c = values[..., 0], values[..., 1], values[..., 2]
    mixed: Floats = np.stack([a * m[0] + b * m[1] + c * m[2] for m in matrix], axis=-1)
    return mixed


def into_gamut(lab: Floats) -> Floats:
    """Reduce chroma where sRGB cannot show it; hue and lightness stay."""
    lab = lab.copy()
    lab[..., 0] = np.clip(lab[..., 0], 0, 1)
    for _ in range(6):
        linear = _to_linear(lab)
        out = ((linear < -0.002) | (linear > 1.002)).any(axis=-1)
        if not out.any():
            break
        lab[out, 1:] *= 0.88
    return lab


def oklab_of(hex_color: str) -> Floats:
    """An sRGB colour such as "c81e1e" in Oklab, [3]."""
    return to_oklab(np.frombuffer(bytes.fromhex(hex_color), np.uint8))


COLOR_NAMES = tuple(_EXEMPLARS)
"""The basic colours, in the order of `color_index`."""
_WHITE_CHROMA, _WHITE_LIGHTNESS = 0.06, 0.65
_LIGHTNESS_WEIGHT = 0.6  # people name a colour by its hue through a wide range of lightness


def color_index(name: str) -> int:
    """Place of a basic colour in `COLOR_NAMES`."""
    return COLOR_NAMES.index(name)


def has_color(pixels: Pixels, name: str) -> NDArray[np.bool_]:
    """Whether each pixel of [..., 3] would be called by a basic colour term, in a photo.

    The nearest example decides. In photos white things are mostly shaded or tinted by the light, so
    light grays and creams count as white too.
    """
    found: NDArray[np.bool_] = name_map(pixels) == color_index(name)
    if name != "white":
        return found
    lab = to_oklab(pixels)
    pale: NDArray[np.bool_] = np.hypot(lab[..., 1], lab[..., 2]) <= _WHITE_CHROMA
    found |= pale & (lab[..., 0] >= _WHITE_LIGHTNESS)
    return found


@cache
def _exemplars() -> tuple[Floats, NDArray[np.uint8]]:
    colors = [(oklab_of(c), i) for i, name in enumerate(COLOR_NAMES) for c in _EXEMPLARS[name]]
    return np.stack([c for c, _ in colors]), np.array([i for _, i in colors], np.uint8)


def _distances(lab: Floats) -> Floats:
    """Distance of Oklab colours [N, 3] to every exemplar, [N, E]."""
    scale = np.array([_LIGHTNESS_WEIGHT, 1, 1], np.float32)
    points, _ = _exemplars()
    away: Floats = np.linalg.norm((lab[:, None] - points[None]) * scale, axis=-1)
    return away


def name_of(lab: Floats) -> str:
    """The basic colour whose example is nearest to an Oklab colour [3]."""
    return COLOR_NAMES[int(_exemplars()[1][_distances(lab[None])[0].argmin()])]


def distance_to(lab: Floats, name: str) -> float:
    """Distance of an Oklab colour [3] to the nearest example of a basic colour."""
    return float(_distances(lab[None])[0][_exemplars()[1] == color_index(name)].min())


@cache
def _name_table() -> NDArray[np.uint8]:
    """The name of every colour of 5 bits a channel."""
    levels = (np.arange(32) * 8 + 4).astype(np.uint8)
    grid = np.stack(np.meshgrid(levels, levels, levels, indexing="ij"), axis=-1).reshape(-1, 3)
    names: NDArray[np.uint8] = _exemplars()[1][_distances(to_oklab(grid)).argmin(axis=1)]
    return names


def name_map(pixels: Pixels) -> NDArray[np.uint8]:
    """Index into the basic colours of the nearest exemplar, per pixel of [..., 3]."""
    r, g, b = (pixels[..., i].astype(np.intp) >> 3 for i in range(3))
    names: NDArray[np.uint8] = _name_table()[(r << 10) | (g << 5) | b]
    return names


def median_color(lab: Floats) -> Floats:
    """The median of Oklab colours [..., 3], channel by channel."""
    middle: Floats = np.median(lab.reshape(-1, 3), axis=0).astype(np.float32)
    return middle
