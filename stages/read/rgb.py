"""Any decoded image as 8-bit sRGB without transparency. Knows images, not files."""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
import PIL.Image
import PIL.ImageCms

_WHITE = (255, 255, 255)
_PROBE = np.stack(np.meshgrid(*[np.arange(0, 256, 51, dtype=np.uint8)] * 3), axis=-1)
"""Colours on which a profile is tried: six steps a channel."""
_SRGB_TOLERANCE = 2
"""Levels (of 255) by which a profile may differ and still count as sRGB. The many variants of sRGB
differ by one; the nearest other colour space, Display P3, by thirty."""


def to_rgb(image: PIL.Image.Image) -> tuple[PIL.Image.Image, bool]:
    """The loaded image as mode RGB in sRGB, and whether its pixels were converted.

    Sixteen bits are scaled, not clipped; transparent parts become white; an embedded colour profile
    is applied. ValueError for kinds of pixels without a defined black and white.
    """
    if image.mode == "RGB" and not image.has_transparency_data:
        converted = _managed(image, image.info.get("icc_profile"))
        return (image, False) if converted is None else (converted, True)
    if image.mode.startswith("I") or image.mode == "F":
        return _from_wide(image).convert("RGB"), True
    profile = image.info.get("icc_profile")
    alpha = None
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        image = image.convert("RGB")
    elif image.mode not in ("CMYK", "L"):
        image = image.convert("RGB")
    converted = _managed(image, profile) or image.convert("RGB")
    if alpha is not None:
        background = PIL.Image.new("RGB", converted.size, _WHITE)
        background.paste(converted, mask=alpha)
        converted = background
    return converted, True


def _from_wide(image: PIL.Image.Image) -> PIL.Image.Image:
    """A grey image of 16 bits (which Pillow may hold in 32) scaled to 8."""
    values = np.asarray(image)
    if image.mode == "F" or values.min() < 0 or values.max() > 0xFFFF:
        raise ValueError(
            f"pixels of mode {image.mode} from {values.min()} to {values.max()}; "
            "at most 16 bits are allowed"
        )
    return PIL.Image.fromarray(((values.astype(np.uint32) * 255 + 0x7FFF) // 0xFFFF).astype("u1"))


def _managed(image: PIL.Image.Image, profile: bytes | None) -> PIL.Image.Image | None:
    """The image converted from its profile to sRGB; None where there is nothing to convert.

    A profile that is damaged, or meant for another kind of pixels, is ignored, as browsers do.
    """
    if not profile or _is_srgb(profile, image.mode):
        return None
    try:
        return PIL.ImageCms.applyTransform(image, _transform(profile, image.mode))
    except PIL.ImageCms.PyCMSError:
        return None


@lru_cache(maxsize=64)
def _is_srgb(profile: bytes, mode: str) -> bool:
    """Whether a profile makes no visible difference; true for an unusable one."""
    if mode == "CMYK":
        return False
    probe = PIL.Image.fromarray(_PROBE.reshape(-1, 6, 3)).convert(mode)
    try:
        converted = PIL.ImageCms.applyTransform(probe, _transform(profile, mode))
    except PIL.ImageCms.PyCMSError:
        return True
    difference = np.abs(np.asarray(converted).astype(int) - np.asarray(probe.convert("RGB")))
    return int(difference.max()) <= _SRGB_TOLERANCE


def _transform(profile: bytes, mode: str) -> PIL.ImageCms.ImageCmsTransform:
    # Built for each image: LittleCMS keeps a cache in it that threads must not share.
    try:
        source = PIL.ImageCms.ImageCmsProfile(io.BytesIO(profile))
    except OSError as error:
        raise PIL.ImageCms.PyCMSError(error) from error
    target = PIL.ImageCms.createProfile("sRGB")
    return PIL.ImageCms.buildTransform(source, target, mode, "RGB")
