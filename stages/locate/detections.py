"""What a detector returns, as arrays: boxes, the scores of tags, and masks if it makes any.

Backends import it; it knows neither records nor models.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from schemas.geometry import Box

_NONE: Mapping[str, float] = MappingProxyType({})


class Detection(NamedTuple):
    """One thing that a detector found in an image."""

    box: Box
    """xyxy pixels of the image."""
    names: Mapping[str, float]
    """The tags that score high enough to name it, each with its score in [0, 1]; at least one."""
    mask: NDArray[np.bool_] | None = None
    """bool [H, W] of the image's size, from a model that segments what it finds."""
    faint: Mapping[str, float] = _NONE
    """Tags whose scores are too low to name it, though it may still be one of them."""
