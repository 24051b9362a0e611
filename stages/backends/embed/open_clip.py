"""CLIP by open_clip: checkpoints of LAION and others in that library's layout."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import PIL.Image
from annotated_types import Ge
from numpy.typing import NDArray

from stages.backends.weights.checkpoints import Checkpoint, CheckpointError, locate
from stages.base import OPERATIONAL, Device
from stages.pixels import Pixels

_PRECISION = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
_FILES = ("*.json", "*.txt", "*.model", "open_clip_model.safetensors")
"""With the tokenizer's, where a checkpoint has its own."""


@dataclass
class OpenClip:
    """A folder with open_clip_config.json and weights. Needs the extra `open_clip`."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    name: Literal["open_clip"] = "open_clip"
    """Selects this backend."""
    model: str = "laion/CLIP-ViT-L-14-laion2B-s32B-b82K"
    """Hub id or folder in the layout of open_clip."""
    revision: str | None = None
    """Revision on the hub."""
    view: Literal["crop", "whole"] = "crop"
    """"crop" is the checkpoint's own way to a square, mostly its middle. "whole" squeezes the whole
    image into it."""
    max_batch: Annotated[int, Ge(1)] = field(default=32, metadata=OPERATIONAL)
    """Images, or sentences, in one pass."""
    _model: Any = field(default=None, init=False, repr=False, compare=False)
    _transform: Any = field(default=None, init=False, repr=False, compare=False)
    _tokenizer: Any = field(default=None, init=False, repr=False, compare=False)
    _place: Any = field(default=None, init=False, repr=False, compare=False)

    def checkpoints(self) -> Sequence[Checkpoint]:
        """The one model."""
        return (Checkpoint(self.model, self.revision, _FILES),)

    def open(self, device: Device) -> None:
        """Load both towers and the tokenizer; CheckpointError in one line if they do not fit."""
        from stages.backends.weights.torch_device import place

        try:
            import open_clip
        except ImportError:
            raise CheckpointError(
                "the backend open_clip needs open_clip_torch, which is not installed; "
                "pip install 'nearmiss[open-clip]'"
            ) from None
        self._place = where, _ = place(device)
        (checkpoint,) = self.checkpoints()
        folder = locate(checkpoint)
        name = f"local-dir:{folder}"
        try:
            model, transform = open_clip.create_model_from_pretrained(
                name,
                precision=_PRECISION[device.dtype],
                image_resize_mode="squash" if self.view == "whole" else None,
            )
            self._tokenizer = open_clip.get_tokenizer(name)
        except (OSError, RuntimeError, ValueError) as error:
            why = str(error).strip().splitlines()[0][:300]
            raise CheckpointError(
                f"{checkpoint}: {folder} holds no open_clip model: {why}"
            ) from error
        self._model = model.eval().to(where)
        self._transform = transform

    def close(self) -> None:
        """Free the device."""
        if self._model is not None:
            from stages.backends.weights.torch_device import free

            self._model = self._transform = self._tokenizer = None
            free(self._place[0])

    def fits(self, text: str) -> bool:
        """Whether the text has at most 77 tokens (or what the checkpoint takes)."""
        return self._excess(text) <= 0

    def embed_images(self, images: Sequence[Pixels]) -> NDArray[np.float32]:
        """[N, D] unit rows, normalised in float32, of N uint8 [H, W, 3] RGB images."""
        import torch

        from stages.backends.weights.torch_images import chunks, unit_rows

        where, dtype = self._place
        rows = []
        with torch.inference_mode():
            for part in chunks(len(images), self.max_batch):
                seen = [self._transform(PIL.Image.fromarray(image)) for image in images[part]]
                rows.append(unit_rows(self._model.encode_image(torch.stack(seen).to(where, dtype))))
        return np.concatenate(rows)

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """[M, D] unit rows, normalised in float32; ValueError for a text that does not fit."""
        import torch

        from stages.backends.weights.torch_images import chunks, unit_rows

        for text in texts:
            if (excess := self._excess(text)) > 0:
                raise ValueError(f"{excess} tokens too many for {self.model}: {text!r:.120}")
        rows = []
        with torch.inference_mode():
            for part in chunks(len(texts), self.max_batch):
                tokens = self._tokenizer(list(texts[part])).to(self._place[0])
                rows.append(unit_rows(self._model.encode_text(tokens)))
        return np.concatenate(rows)

    def _excess(self, text: str) -> int:
        """Tokens beyond the limit: the tokenizers of open_clip cut them off without a word."""
        own = self._tokenizer
        if hasattr(own, "encode"):
            number = len(own.encode(text)) + 2  # start and end
        else:
            number = len(own.tokenizer(own.clean_fn(text))["input_ids"])
        return number - int(own.context_length)
