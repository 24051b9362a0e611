"""Tags by RAM and RAM++, from the authors' own checkpoint files."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL.Image import Resampling
from torch import Tensor
from transformers import ViTImageProcessorPil

from stages.backends.locate.ram_network import RamNetwork, load_weights, read_architecture
from stages.backends.weights.checkpoints import (
    UNREADABLE,
    Checkpoint,
    CheckpointError,
    first_line,
    locate,
)
from stages.backends.weights.torch_device import TorchModel
from stages.backends.weights.torch_images import Images, chunks
from stages.base import Device
from stages.pixels import Pixels

if TYPE_CHECKING:
    from stages.backends.locate.ram import RamSettings


class RamModel(TorchModel):
    """RAM or RAM++, whichever the checkpoint is."""

    def __init__(self, settings: RamSettings, device: Device) -> None:
        """Load the model and both lists.

        CheckpointError in one line for a file that is missing, no RAM checkpoint, or does not fit
        the others.
        """
        super().__init__(device)
        self.settings = settings

        weights_file, tags, thresholds = settings.checkpoints()
        names = _lines(tags)
        least = _thresholds(thresholds)
        path, weights = self._read(weights_file)
        try:
            shape = read_architecture(weights, settings.image_size)
            _check_lengths(tags, len(names), shape.num_tags, shape.num_vectors)
            _check_lengths(thresholds, len(least), shape.num_tags, shape.num_vectors)
            model = RamNetwork(shape)
            load_weights(model, weights)
        except CheckpointError as error:
            raise CheckpointError(f"{path} {error}") from None
        del weights
        self._model = model.to(self.dtype).to(self.where).eval().requires_grad_(False)  # noqa: FBT003
        self._names, self._least = names, torch.tensor(least, device=self.where)
        processor = ViTImageProcessorPil(
            size={"height": settings.image_size, "width": settings.image_size},
            resample=Resampling.BILINEAR,
            image_mean=[0.485, 0.456, 0.406],
            image_std=[0.229, 0.224, 0.225],
        )
        self._images = Images(processor, self.where, self.dtype)

    def tag(self, images: Sequence[Pixels]) -> list[list[tuple[str, float]]]:
        """Name and probability of the tags above their thresholds, in the order of the list."""
        tags: list[list[tuple[str, float]]] = []
        with torch.inference_mode():
            for part in chunks(len(images), self.settings.max_batch):
                logits = self._model(self._images.stacked(images[part]))
                chances = logits.sigmoid()
                above = (chances > self._least).cpu().numpy()
                values = chances.cpu().numpy()
                tags += [
                    [(self._names[i], float(row[i])) for i in hits.nonzero()[0]]
                    for row, hits in zip(values, above, strict=True)
                ]
        return tags

    def _read(self, checkpoint: Checkpoint) -> tuple[Path, Mapping[str, Tensor]]:
        """The file and its weights; keys of older files get their later names."""
        found = locate(checkpoint)
        path = found / self.settings.file if found.is_dir() else found
        if not path.is_file():
            raise CheckpointError(
                f"{checkpoint}: {found} holds no {self.settings.file}; give its folder"
            )
        try:
            # Mapped into memory: the checkpoint of RAM is 5 GB, of which a fifth is not read.
            content = torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
        except UNREADABLE as error:
            raise CheckpointError(
                f"{path} is no checkpoint of weights: {first_line(error)}"
            ) from None
        weights = content.get("model") if isinstance(content, dict) else None
        if not isinstance(weights, dict) or not all(map(torch.is_tensor, weights.values())):
            raise CheckpointError(f'{path} has no weights under "model"; is it a RAM checkpoint?')
        return path, {
            key.replace("vision_multi.", "tagging_head."): value
            for key, value in weights.items()
            if not key.startswith(self.settings.ignore)
        }


def _lines(file: Checkpoint) -> list[str]:
    """The lines of a list, none of them empty."""
    try:
        text = Path(file.model).expanduser().read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"cannot read {file} ({type(error).__name__}); it comes from {file.source}"
        ) from None
    lines = [line.strip() for line in text.strip().splitlines()]
    for number, line in enumerate(lines, 1):
        if not line:
            raise CheckpointError(f"{file}, line {number} is empty; it would shift all tags after")
    return lines


def _thresholds(file: Checkpoint) -> list[float]:
    values = []
    for number, line in enumerate(_lines(file), 1):
        try:
            value = float(line)
        except ValueError:
            value = float("nan")
        if not 0 <= value <= 1:
            raise CheckpointError(
                f"{file}, line {number}: {line!r:.60} is no probability; a number in [0, 1] is "
                "needed for every tag"
            )
        values.append(value)
    return values


def _check_lengths(file: Checkpoint, found: int, expected: int, num_vectors: int) -> None:
    if found != expected:
        raise CheckpointError(
            f"knows {expected} tags (label_embed has {num_vectors} rows), but {file} has {found} "
            f"lines; take the lists that belong to the checkpoint, from {file.source}"
        )
