"""Load: read a seed's image, check that it is whole, and bring it into the form all stages take.

Checks whether an image can be used, not what it shows.
"""

from __future__ import annotations

import io
import struct
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated

import numpy as np
import PIL.Image
from annotated_types import Ge, Le

from schemas.geometry import Mask
from schemas.records import (
    Drop,
    GivenNegative,
    GivenNegativeRef,
    Image,
    ImageRef,
    Reason,
    Region,
    Seed,
    SeedRef,
)
from stages.base import Stage
from stages.read.inputs import read_embedded, read_files
from stages.read.rgb import to_rgb

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
"""Formats that Pillow decodes itself. Others start programs (EPS) or are not images (MPEG)."""
_KEPT_FORMATS = ("JPEG", "PNG", "WEBP")

_BROKEN = (
    OSError,  # truncated, unidentified; from memory, so no file or network can be the cause
    SyntaxError,  # Pillow's word for a broken PNG, TIFF or JPEG header
    ValueError,  # impossible sizes, modes and tables; text chunks that swell when unpacked
    RuntimeError,  # libavif's only error
    EOFError,
    struct.error,
    zlib.error,
)
"""What Pillow's decoders raise on damaged data: the row is at fault. Out of memory and other errors
are not among them. (Tried with thousands of damaged files.)"""

_BIT_DEPTH_AT = 24
"""Byte of a PNG that holds the bits per channel (in IHDR, which is always first)."""
_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: PIL.Image.Transpose.FLIP_LEFT_RIGHT,
    3: PIL.Image.Transpose.ROTATE_180,
    4: PIL.Image.Transpose.FLIP_TOP_BOTTOM,
    5: PIL.Image.Transpose.TRANSPOSE,
    6: PIL.Image.Transpose.ROTATE_270,
    7: PIL.Image.Transpose.TRANSVERSE,
    8: PIL.Image.Transpose.ROTATE_90,
}
"""The transposition that undoes each EXIF orientation; 1 and undefined values need none."""
_LYING = (5, 6, 7, 8)
"""Orientations that swap rows and columns."""


@dataclass(frozen=True)
class Loader(Stage[SeedRef, Seed]):
    """Reads the images of seeds. Drops rows with a defect or an unusable image.

    An image that cannot be read for a reason outside the row (permission, network) raises.
    """

    max_side: Annotated[int, Ge(0)] = 1024
    """Longest side of the loaded image in pixels; larger ones are reduced. 0 keeps every size."""
    min_side: Annotated[int, Ge(1)] = 32
    """Shortest side that is allowed after reduction, in pixels."""
    max_pixels: Annotated[int, Ge(1), Le(178_956_970)] = 100_000_000
    """Largest image that is decoded, in pixels; read from its header. At most Pillow's own."""
    given_negative: bool = False
    """Whether to read the second image of rows that are pairs as well."""

    def process(self, batch: Sequence[SeedRef]) -> Sequence[Sequence[Seed] | Drop]:
        """The seeds, each with its image, or why there is none."""
        whole = [ref for ref in batch if ref.defect is None]
        others = [ref.given_negative for ref in whole if ref.given_negative and self.given_negative]
        contents = _read([ref.image for ref in whole] + [other.image for other in others])
        own = iter([next(contents) for _ in whole])
        outcomes: list[Sequence[Seed] | Drop] = []
        for ref in batch:
            if ref.defect is not None:
                outcomes.append(ref.defect)
                continue
            seed = self._load(ref, next(own))
            if ref.given_negative and self.given_negative:
                other = self._given_negative(ref.given_negative, next(contents))
                if isinstance(seed, Seed):
                    seed = other if isinstance(other, Drop) else replace(seed, given_negative=other)
            outcomes.append(seed if isinstance(seed, Drop) else [seed])
        return outcomes

    def _given_negative(self, ref: GivenNegativeRef, data: bytes | None) -> GivenNegative | Drop:
        loaded = self._whole(ref.image, data)
        if isinstance(loaded, Drop):
            return replace(loaded, detail=f"the other image: {loaded.detail}")
        return GivenNegative(Image(loaded.data, _name(ref.image)), ref.answer, ref.kind, ref.params)

    def _whole(self, image: ImageRef, data: bytes | None) -> _Loaded | Drop:
        """The image at `image`, whose content is `data`, or what is wrong with it."""
        if data is None:
            return Drop(Reason.IMAGE_NOT_FOUND, f"no image at {_where(image)}")
        if not data:
            return Drop(Reason.BAD_IMAGE, f"{_where(image)} is empty (0 bytes)")
        try:
            return self._image(data)
        except PIL.Image.DecompressionBombError as error:
            return Drop(Reason.IMAGE_TOO_LARGE, f"{_where(image)}: {error}")
        except _BROKEN as error:
            return Drop(Reason.BAD_IMAGE, f"{_where(image)}: {_one_line(error)}")

    def _load(self, ref: SeedRef, data: bytes | None) -> Seed | Drop:
        loaded = self._whole(ref.image, data)
        if isinstance(loaded, Drop):
            return loaded
        regions = _fitted(ref.regions, loaded)
        if isinstance(regions, Drop):
            return regions
        return Seed(
            seed_id=ref.seed_id,
            run_seed=ref.run_seed,
            image=Image(loaded.data, _name(ref.image)),
            width=loaded.size[0],
            height=loaded.size[1],
            prompt=ref.prompt,
            chosen=ref.chosen,
            rejected=ref.rejected,
            regions=regions,
            source=ref.source,
            license=ref.license,
        )

    def _image(self, data: bytes) -> _Loaded | Drop:
        """Decode fully (only then does damage show), convert, turn upright, reduce."""
        with PIL.Image.open(io.BytesIO(data), formats=_FORMATS) as image:
            stored = image.size
            if stored[0] * stored[1] > self.max_pixels:
                detail = f"{stored[0]}x{stored[1]} pixels; at most {self.max_pixels} are allowed"
                return Drop(Reason.IMAGE_TOO_LARGE, detail)
            kept = _can_be_kept(image, data)
            # Pillow turns TIFF upright itself.
            orientation = 1 if image.format == "TIFF" else _orientation(image)
            lying = orientation in _LYING
            full = (stored[1], stored[0]) if lying else stored
            factor = min(1.0, self.max_side / max(full)) if self.max_side else 1.0
            size = (max(1, round(full[0] * factor)), max(1, round(full[1] * factor)))
            if min(size) < self.min_side:
                reduced = f", {size[0]}x{size[1]} after reduction" if factor < 1 else ""
                detail = f"{full[0]}x{full[1]} pixels{reduced}; no side may be below"
                return Drop(Reason.IMAGE_TOO_SMALL, f"{detail} {self.min_side}")
            if factor < 1:
                # JPEG decodes faster at a half, a quarter or an eighth of its size: take the
                # smallest that is still twice the target, so that the filter below does the rest.
                wanted = (2 * size[0], 2 * size[1])
                image.draft(None, wanted[::-1] if lying else wanted)
            image.load()
            upright, changed = to_rgb(image)
            if orientation in _UPRIGHT:
                upright, changed = upright.transpose(_UPRIGHT[orientation]), True
            if factor < 1:
                upright, changed = upright.resize(size, PIL.Image.Resampling.LANCZOS), True
            return _Loaded(data if kept and not changed else _png(upright), size, full)


@dataclass(frozen=True, slots=True)
class _Loaded:
    """An image in the form that stages take."""

    data: bytes
    size: tuple[int, int]
    """Columns and rows."""
    full: tuple[int, int]
    """Columns and rows of the upright image before it was reduced: what boxes refer to."""


def _read(images: Sequence[ImageRef]) -> Iterator[bytes | None]:
    """Contents of images, in order; those in one Parquet file are read together."""
    embedded: dict[tuple[str, str], set[int]] = defaultdict(set)
    for image in images:
        if image.path is not None and image.row is not None and image.column is not None:
            embedded[image.path, image.column].add(image.row)
    cells = {key: read_embedded(*key, sorted(rows)) for key, rows in embedded.items()}
    paths = [i.path for i in images if i.path is not None and i.row is None and i.bytes is None]
    files = iter(read_files(paths))
    for image in images:
        if image.bytes is not None or image.path is None:
            yield image.bytes
        elif image.row is not None and image.column is not None:
            yield cells[image.path, image.column][image.row]
        else:
            yield next(files)


def _can_be_kept(image: PIL.Image.Image, data: bytes) -> bool:
    """Whether the file can be kept as it is if its pixels need no change."""
    if image.format not in _KEPT_FORMATS or getattr(image, "n_frames", 1) > 1:
        return False
    return image.format != "PNG" or data[_BIT_DEPTH_AT] == 8


def _orientation(image: PIL.Image.Image) -> int:
    value = image.getexif().get(_ORIENTATION_TAG, 1)
    return value if isinstance(value, int) else 1


def _png(image: PIL.Image.Image) -> bytes:
    """Lossless, fast rather than small: the pair is encoded again from these pixels."""
    sink = io.BytesIO()
    # Metadata that Pillow would carry over describes the image before the changes.
    PIL.Image.frombytes("RGB", image.size, image.tobytes()).save(sink, "PNG", compress_level=1)
    return sink.getvalue()


def _fitted(regions: Sequence[Region], loaded: _Loaded) -> tuple[Region, ...] | Drop:
    """The regions in pixels of the loaded image, clipped to it; a Drop for the first outside."""
    width, height = loaded.full
    factors = (loaded.size[0] / width, loaded.size[1] / height)
    fitted = []
    for region in regions:
        box, mask = region.box, region.mask
        if box.area <= 0 or box.clipped(width, height).area <= 0:
            where = "is empty" if box.area <= 0 else f"lies outside the {width}x{height} image"
            corners = ", ".join(f"{v:g}" for v in box)
            return Drop(Reason.BAD_BOX, f"box of {region.label!r} [{corners}] {where}")
        if mask is not None:
            problem = _misfit(mask, width, height)
            if problem:
                return Drop(Reason.BAD_BOX, f"mask of {region.label!r} {problem}")
            mask = _resized(mask, loaded.size)
        scaled = box.clipped(width, height).scaled(*factors).clipped(*loaded.size)
        fitted.append(replace(region, box=scaled, mask=mask))
    return tuple(fitted)


def _misfit(mask: Mask, width: int, height: int) -> str | None:
    if (mask.width, mask.height) != (width, height):
        return f"is {mask.width}x{mask.height}, the image {width}x{height}"
    if sum(mask.counts) != width * height:
        return f"covers {sum(mask.counts)} pixels, the image has {width * height}"
    return None if mask.area else "is empty"


def _resized(mask: Mask, size: tuple[int, int]) -> Mask:
    """The mask of the reduced image: pixels at least half covered, or any touched."""
    if (mask.width, mask.height) == size:
        return mask
    levels = PIL.Image.fromarray(mask.to_array().astype(np.uint8) * 255)
    covered = np.asarray(levels.resize(size, PIL.Image.Resampling.BOX))
    return Mask.from_array(covered >= 128 if (covered >= 128).any() else covered > 0)


def _where(image: ImageRef) -> str:
    """The image, for a person."""
    if image.path is None:
        return "the inline image"
    return image.path if image.row is None else f"{image.path}, row {image.row}, {image.column}"


def _name(image: ImageRef) -> str | None:
    """The image's file name; of an embedded image, that of the Parquet file and the row."""
    if image.path is None:
        return None
    name = image.path.rstrip("/").rpartition("/")[2]
    return name if image.row is None else f"{name}#{image.row}"


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]
