"""Images in and out of their compressed form. uint8 [H, W, 3] RGB everywhere."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar
from functools import lru_cache

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from schemas.records import Image

Pixels = NDArray[np.uint8]

JPEG_QUALITY = 95
"""Both images of a pair are encoded once, from pixels, with this quality and full chroma: a
difference in codec between them is a shortcut that a model can learn."""


class DecodedImages:
    """The images last asked for, decoded. A worker owns one, and its threads share it."""

    def __init__(self, capacity: int = 32) -> None:
        """Hold so many images at most; each takes three bytes a pixel."""
        self._capacity = capacity
        # The latest at the end; futures, so that two threads that want the same decode it once.
        self._decoded: OrderedDict[bytes, Future[Pixels]] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """How many images are held."""
        return len(self._decoded)

    def decode(self, image: Image) -> Pixels:
        """As the function `decode`."""
        data = image.bytes
        with self._lock:
            known = self._decoded.get(data)
            future = self._decoded.setdefault(data, known or Future())
            self._decoded.move_to_end(data)
            while len(self._decoded) > self._capacity:
                self._decoded.popitem(last=False)
        if known is None:
            try:
                future.set_result(_read(data))
            except BaseException as error:
                with self._lock:
                    self._decoded.pop(data, None)
                future.set_exception(error)
                raise
        return future.result()

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Within it, `decode` takes from here what it can: in this thread, until the end."""
        token = _in_use.set(self)
        try:
            yield
        finally:
            _in_use.reset(token)


_in_use: ContextVar[DecodedImages | None] = ContextVar("decoded images", default=None)


def decode(image: Image) -> Pixels:
    """The image as a read-only uint8 [H, W, 3] RGB array.

    The stages of a chain ask for the same images, so a worker lends them its `DecodedImages`;
    without one every call decodes.
    """
    images = _in_use.get()
    return _read(image.bytes) if images is None else images.decode(image)


def _read(data: bytes) -> Pixels:
    with PIL.Image.open(io.BytesIO(data)) as opened:
        pixels = np.array(opened.convert("RGB"))
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
