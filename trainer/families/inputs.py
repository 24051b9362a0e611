"""What passes between processor, token rows and model: plain data, without a family's knowledge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

ImageTensors = Mapping[str, Tensor]
"""One image's tensors by name: `pixel_values` [tiles, 3, height, width] or [patches, numbers], and
what else the model asks for, such as `image_sizes` [1, 2] or `image_grid_thw` [1, 3]."""


@dataclass(frozen=True, slots=True)
class Pixels:
    """One image as the model takes it."""

    tensors: ImageTensors
    """Its tensors."""
    ids: NDArray[np.int64]
    """The tokens that stand for it in a prompt: placeholders, one for each of its features, and
    where the family has them the tokens around and between its tiles."""
    num_features: int
    """Placeholders among them, each of which takes one feature of the image."""
    num_patches: int
    """Patches that the vision tower makes of it, over all tiles."""
    alone: bool
    """Whether it was made as the only image of its prompt."""

    @property
    def num_tokens(self) -> int:
        """Tokens that stand for it in a prompt."""
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class PromptTokens:
    """A prompt as the model takes it."""

    ids: NDArray[np.int64]
    """Its tokens, every placeholder of the text replaced by its image's tokens."""
    image: NDArray[np.int64]
    """For every token the number of the image that it stands for, -1 for text. All tokens of an
    image have its number, those between its tiles too, so an image is one unbroken run."""


@dataclass(frozen=True, slots=True)
class ImageFeatures:
    """One image as the language model takes it."""

    tokens: Tensor
    """What stands at its placeholders, [placeholders, hidden]."""
    deep: tuple[Tensor, ...] = ()
    """The same for every deepstack layer (Qwen3-VL), added to the states of the first layers."""


def joined(images: Sequence[ImageTensors]) -> dict[str, Tensor]:
    """The tensors of several images, one after the other."""
    names = list(images[0]) if images else []
    return {name: torch.cat([image[name] for image in images]) for name in names}
