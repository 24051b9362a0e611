"""Tags by RAM and RAM++, from the authors' own checkpoint files."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge

from stages.backends.weights.checkpoints import (
    UNREADABLE,
    Checkpoint,
    CheckpointError,
    first_line,
    locate,
)
from stages.base import DECIDING_FILE, OPERATIONAL, Device
from stages.pixels import Pixels

if TYPE_CHECKING:
    from torch import Tensor

_SOURCE = "github.com/xinyu1205/recognize-anything, folder ram/data"


@dataclass
class Ram:
    """RAM or RAM++, whichever the checkpoint is.

    A tag is given where its probability is above its own threshold. The tag list and the thresholds
    are files of the authors' repository, not of the checkpoint; one line for every tag.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    name: Literal["ram"] = "ram"
    """Selects this backend."""
    model: str = "xinyu1205/recognize-anything-plus-model"
    """Hub id or folder that holds `file`, or the file itself."""
    revision: str | None = None
    """Revision on the hub."""
    file: str = "ram_plus_swin_large_14m.pth"
    """Checkpoint in the repository or folder; RAM's is `ram_swin_large_14m.pth`."""
    tag_list: str = field(default="ram_tag_list.txt", metadata=DECIDING_FILE)
    """Path of the tags' names, in the order of the checkpoint."""
    thresholds: str = field(default="ram_tag_list_threshold.txt", metadata=DECIDING_FILE)
    """Path of the tags' least probabilities, in the same order."""
    image_size: Annotated[int, Ge(1)] = 384
    """Side in pixels to which images are squeezed: the one that the checkpoint was trained on."""
    ignore: tuple[str, ...] = ("tag_encoder.", "text_decoder.")
    """Beginnings of keys that are not read: what RAM needs to write captions. Every other key must
    have a place in the model."""
    max_batch: Annotated[int, Ge(1)] = field(default=16, metadata=OPERATIONAL)
    """Images in one pass."""
    _model: Any = field(default=None, init=False, repr=False, compare=False)
    _images: Any = field(default=None, init=False, repr=False, compare=False)
    _names: Any = field(default=None, init=False, repr=False, compare=False)
    _least: Any = field(default=None, init=False, repr=False, compare=False)

    def checkpoints(self) -> Sequence[Checkpoint]:
        """The weights, the names and the thresholds."""
        return (
            Checkpoint(self.model, self.revision, patterns=(self.file,)),
            Checkpoint(self.tag_list, source=_SOURCE),
            Checkpoint(self.thresholds, source=_SOURCE),
        )

    def open(self, device: Device) -> None:
        """Load the model and both lists.

        CheckpointError in one line for a file that is missing, no RAM checkpoint, or does not fit
        the others.
        """
        import torch
        from PIL.Image import Resampling
        from transformers import ViTImageProcessorPil

        from stages.backends.locate.ram_model import RamModel, load_weights, read_architecture
        from stages.backends.weights.torch_device import place
        from stages.backends.weights.torch_images import Images

        where, dtype = place(device)
        names = _lines(self.tag_list)
        least = _thresholds(self.thresholds)
        path, weights = self._read()
        try:
            shape = read_architecture(weights, self.image_size)
            _check_lengths(self.tag_list, len(names), shape.num_tags, shape.num_vectors)
            _check_lengths(self.thresholds, len(least), shape.num_tags, shape.num_vectors)
            model = RamModel(shape)
            load_weights(model, weights)
        except CheckpointError as error:
            raise CheckpointError(f"{path} {error}") from None
        del weights
        self._model = model.to(dtype).to(where).eval().requires_grad_(False)  # noqa: FBT003
        self._names, self._least = names, torch.tensor(least, device=where)
        processor = ViTImageProcessorPil(
            size={"height": self.image_size, "width": self.image_size},
            resample=Resampling.BILINEAR,
            image_mean=[0.485, 0.456, 0.406],
            image_std=[0.229, 0.224, 0.225],
        )
        self._images = Images(processor, where, dtype)

    def close(self) -> None:
        """Free the device."""
        if self._model is not None:
            from stages.backends.weights.torch_device import free

            where = self._least.device
            self._model = self._images = self._names = self._least = None
            free(where)

    def tag(self, images: Sequence[Pixels]) -> list[list[tuple[str, float]]]:
        """Name and probability of the tags above their thresholds, in the order of the list."""
        import torch

        from stages.backends.weights.torch_images import chunks

        tags: list[list[tuple[str, float]]] = []
        with torch.inference_mode():
            for part in chunks(len(images), self.max_batch):
                logits = self._model(self._images.stacked(images[part]))
                chances = logits.sigmoid()
                above = (chances > self._least).cpu().numpy()
                values = chances.cpu().numpy()
                tags += [
                    [(self._names[i], float(row[i])) for i in hits.nonzero()[0]]
                    for row, hits in zip(values, above, strict=True)
                ]
        return tags

    def _read(self) -> tuple[Path, Mapping[str, Tensor]]:
        """The file and its weights; keys of older files get their later names."""
        import torch

        checkpoint = self.checkpoints()[0]
        found = locate(checkpoint)
        path = found / self.file if found.is_dir() else found
        if not path.is_file():
            raise CheckpointError(f"{checkpoint}: {found} holds no {self.file}; give its folder")
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
            if not key.startswith(self.ignore)
        }


def _lines(path: str) -> list[str]:
    """The lines of a list, none of them empty."""
    try:
        text = Path(path).expanduser().read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"cannot read {path} ({type(error).__name__}); it comes from {_SOURCE}"
        ) from None
    lines = [line.strip() for line in text.strip().splitlines()]
    for number, line in enumerate(lines, 1):
        if not line:
            raise CheckpointError(f"{path}, line {number} is empty; it would shift all tags after")
    return lines


def _thresholds(path: str) -> list[float]:
    values = []
    for number, line in enumerate(_lines(path), 1):
        try:
            value = float(line)
        except ValueError:
            value = float("nan")
        if not 0 <= value <= 1:
            raise CheckpointError(
                f"{path}, line {number}: {line!r:.60} is no probability; a number in [0, 1] is "
                "needed for every tag"
            )
        values.append(value)
    return values


def _check_lengths(path: str, found: int, expected: int, num_vectors: int) -> None:
    if found != expected:
        raise CheckpointError(
            f"knows {expected} tags (label_embed has {num_vectors} rows), but {path} has {found} "
            f"lines; take the lists that belong to the checkpoint, from {_SOURCE}"
        )
