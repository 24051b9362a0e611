"""Decodes the images of the next micro-batch while this one computes on another device."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from schemas.outcomes import FlowRecord, images_of
from schemas.records import Image
from stages.pixels import DecodedImages

log = logging.getLogger(__name__)

IMAGES_PER_SEED = 8
"""Images of a seed that the stages of a group ask for again: the original, near misses."""


class DecodeAhead:
    """One thread that decodes into the images that the worker holds for its stages."""

    def __init__(self, micro_batch: int) -> None:
        """`micro_batch` is the number of seeds of which images must be held."""
        # Two micro-batches: what is decoded ahead must not push out what is still asked for.
        self.images = DecodedImages(max(32, 2 * IMAGES_PER_SEED * micro_batch))
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="ahead")

    def start(self, records: Sequence[FlowRecord]) -> None:
        """Decode what these records will be asked for."""
        for record in records:
            for image in images_of(record):
                self._thread.submit(_decode_quietly, self.images, image)

    def close(self) -> None:
        """End the thread; what it has not begun is left."""
        self._thread.shutdown(cancel_futures=True)


def _decode_quietly(images: DecodedImages, image: Image) -> None:
    try:
        images.decode(image)
    except Exception as error:  # noqa: BLE001  # the stage meets it again, and says so of its row
        log.debug("an image cannot be decoded: %s", error)
