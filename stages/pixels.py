"""Images in and out of their compressed form. uint8 [H, W, 3] RGB everywhere."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from concurrent.futures import Future
from functools import lru_cache

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from schemas.records import Image

Pixels = NDArray[np.uint8]

JPEG_QUALITY = 95
"""Both images of a pair are encoded once, from pixels, with this quality and full chroma: a
difference in codec between them is a shortcut that a model can learn."""


_decoded: OrderedDict[bytes, Future[Pixels]] = OrderedDict()
"""The images last asked for, the latest at the end; a future, so that two threads that want the
same one decode it once."""
_room = 32
_turn = threading.Lock()


def decode(image: Image) -> Pixels:
    """The image as a read-only uint8 [H, W, 3] RGB array.

    The last few images are remembered, because the stages of a chain ask for the same ones.
    """
    data = image.bytes
    with _turn:
        known = _decoded.get(data)
        future = _decoded.setdefault(data, known or Future())
        _decoded.move_to_end(data)
        while len(_decoded) > _room:
            _decoded.popitem(last=False)
    if known is None:
        try:
            future.set_result(_read(data))
        except BaseException as error:
            with _turn:
                _decoded.pop(data, None)
            future.set_exception(error)
            raise
    return future.result()


def make_room(num: int) -> None:
    """Remember at least so many images; each takes three bytes a pixel."""
    global _room  # noqa: PLW0603  # one memory a process, like the images themselves
    with _turn:
        _room = max(_room, num)


def _read(data: bytes) -> Pixels:
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
        raise ValueError(f"edited image is {edited.shape}, the original {pixels.shape}")
    return _encode_original(original), encode_jpeg(edited)


@lru_cache(maxsize=8)
def _encode_original(original: Image) -> Image:
    return encode_jpeg(decode(original), original.path)
