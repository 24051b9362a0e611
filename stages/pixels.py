"""Pictures in and out of their compressed form. uint8 [H, W, 3] RGB everywhere."""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from schemas.records import Image

Pixels = NDArray[np.uint8]

JPEG_QUALITY = 95
"""Both images of a pair are encoded once, from pixels, with this quality and full chroma: a
difference in codec between them is a shortcut that a model can learn."""


def decode(image: Image) -> Pixels:
    """The picture as a read-only uint8 [H, W, 3] RGB array.

    The last few pictures are remembered, because the stages of a chain ask for the same ones.
    """
    return _decode(image.bytes)


@lru_cache(maxsize=32)
def _decode(data: bytes) -> Pixels:
    with PIL.Image.open(io.BytesIO(data)) as picture:
        pixels = np.array(picture.convert("RGB"))
    pixels.setflags(write=False)
    return pixels


def encode_jpeg(pixels: Pixels, path: str | None = None) -> Image:
    """Encode as every image of a pair is: JPEG, `JPEG_QUALITY`, 4:4:4."""
    sink = io.BytesIO()
    PIL.Image.fromarray(pixels).save(sink, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return Image(sink.getvalue(), path)


def encode_pair(original: Image, edited: Pixels) -> tuple[Image, Image]:
    """Encode an original and its edited pixels alike, once each; returns (chosen, rejected).

    The original is encoded again from its pixels, so that both have seen the same codec equally
    often since they were last equal. ValueError if the sizes differ.
    """
    pixels = decode(original)
    if pixels.shape != edited.shape:
        raise ValueError(f"edited picture is {edited.shape}, the original {pixels.shape}")
    return _encode_original(original), encode_jpeg(edited)


@lru_cache(maxsize=8)
def _encode_original(original: Image) -> Image:
    return encode_jpeg(decode(original), original.path)
