"""Holes filled by LaMa (arXiv 2109.07161): the exported `big-lama.pt`, a TorchScript file.

Its Fourier layers see the whole image, so an image padded to another size is another image to
them. Only images of the same padded size share a pass; none is padded for the sake of a batch.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from stages.backends.weights.checkpoints import CheckpointError, locate
from stages.backends.weights.torch_device import TorchModel
from stages.backends.weights.torch_images import chunks
from stages.base import Device
from stages.pixels import Pixels

if TYPE_CHECKING:
    from stages.backends.inpaint.lama import LamaSettings

BoolMask = NDArray[np.bool_]

_MULTIPLE = 8
"""The network halves the image three times."""


class LamaModel(TorchModel):
    """Runs in float32 on any device: the Fourier transform has no form in bfloat16."""

    def __init__(self, settings: LamaSettings, device: Device) -> None:
        """Load the file and try it on an empty image.

        CheckpointError if it is no TorchScript, or does something else.
        """
        super().__init__(device)
        self.settings = settings

        (checkpoint,) = settings.checkpoints()
        found = locate(checkpoint)
        path = found / settings.file if found.is_dir() else found
        if not path.is_file():
            raise CheckpointError(
                f"{checkpoint}: {found} holds no {settings.file}; give its folder"
            )
        self._network = _load(path, self.where)

    def fill(
        self,
        images: Sequence[Pixels],
        masks: Sequence[BoolMask],
        avoid: Sequence[BoolMask],  # noqa: ARG002
    ) -> list[Pixels]:
        """Each image with its mask filled; the same bytes outside it. Ignores `avoid`."""
        seen = [self._seen(image, mask) for image, mask in zip(images, masks, strict=True)]
        sizes: dict[tuple[int, ...], list[int]] = {}
        for k, (picture, _) in enumerate(seen):
            sizes.setdefault(picture.shape, []).append(k)
        filled: dict[int, Pixels] = {}
        for same in sizes.values():
            for part in chunks(len(same), self.settings.max_batch):
                made = self._run([seen[k] for k in same[part]])
                filled.update(zip(same[part], made, strict=True))
        return [
            np.where(mask[..., None], self._unseen(filled[k], image), image)
            for k, (image, mask) in enumerate(zip(images, masks, strict=True))
        ]

    def _size(self, image: Pixels) -> tuple[int, int]:
        """Rows and columns at which an image is filled, before padding."""
        height, width = image.shape[:2]
        factor = min(1.0, self.settings.max_side / max(height, width))
        return max(1, round(height * factor)), max(1, round(width * factor))

    def _seen(self, image: Pixels, mask: BoolMask) -> tuple[Pixels, BoolMask]:
        """The image and the hole as the network sees them: reduced, hole grown, padded."""
        height, width = self._size(image)
        hole = mask.astype(np.float32)
        if (height, width) != image.shape[:2]:
            image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
            hole = cv2.resize(hole, (width, height), interpolation=cv2.INTER_AREA)
        # A reduced pixel with any part in the hole has a part of the object in it.
        grown = (hole > 0).astype(np.uint8)
        if self.settings.dilation_px:
            size = 2 * self.settings.dilation_px + 1
            disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
            grown = cv2.dilate(grown, disc)
        down, right = -height % _MULTIPLE, -width % _MULTIPLE
        return (
            np.pad(image, ((0, down), (0, right), (0, 0)), mode="symmetric"),
            np.pad(grown > 0, ((0, down), (0, right)), mode="symmetric"),
        )

    def _unseen(self, filled: Pixels, image: Pixels) -> Pixels:
        """What the network made, without padding and at the image's size."""
        height, width = self._size(image)
        cropped = filled[:height, :width]
        if cropped.shape == image.shape:
            return cropped
        size = (image.shape[1], image.shape[0])
        enlarged: Pixels = cv2.resize(cropped, size, interpolation=cv2.INTER_CUBIC)
        return enlarged

    def _run(self, seen: Sequence[tuple[Pixels, BoolMask]]) -> list[Pixels]:
        """One pass over images of one size; ValueError if it gives numbers that are none."""
        pictures = torch.from_numpy(np.stack([picture for picture, _ in seen]))
        holes = torch.from_numpy(np.stack([hole for _, hole in seen]))
        with torch.inference_mode():
            image = pictures.to(self.where).permute(0, 3, 1, 2).float() / 255
            made = self._network(image, holes.to(self.where)[:, None].float())
            if not torch.isfinite(made).all():
                raise ValueError("LaMa gave numbers that are not finite; the image is left")
            whole = (made * 255).round().clamp(0, 255).to(torch.uint8)
        return list(whole.permute(0, 2, 3, 1).cpu().numpy())


def _load(path: Path, device: torch.device) -> Any:
    """The network in evaluation mode; CheckpointError in one line unless it fills images."""
    load: Any = torch.jit.load  # it has no annotations
    with warnings.catch_warnings():
        # torch.jit is no longer developed; the file exists in no other form (see README).
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        try:
            network = load(path, map_location=device).eval()
        except (RuntimeError, ValueError) as error:
            raise CheckpointError(
                f"{path} is no TorchScript file ({str(error).strip().splitlines()[0][:120]}); "
                "LaMa is needed as the export big-lama.pt, not as a .ckpt or a state dict"
            ) from error
    side = 8 * _MULTIPLE
    empty = torch.zeros((1, 4, side, side), device=device)
    try:
        with torch.inference_mode():
            made = network(empty[:, :3], empty[:, 3:])
        fits = made.shape == (1, 3, side, side) and made.is_floating_point()
        what = f"it gave {tuple(made.shape)}"
    except (RuntimeError, AttributeError) as error:
        fits, what = False, str(error).strip().splitlines()[-1][:120]
    if not fits:
        raise CheckpointError(
            f"{path} is TorchScript, but does not take an image and a mask and give an image "
            f"({what}); LaMa is needed as the export big-lama.pt"
        )
    return network
