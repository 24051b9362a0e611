"""CLIP by open_clip: checkpoints of LAION and others in that library's layout."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import open_clip
import PIL.Image
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError

from stages.backends.weights.checkpoints import UNREADABLE, CheckpointError, first_line, locate
from stages.backends.weights.torch_device import TorchModel
from stages.backends.weights.torch_images import chunks, unit_rows
from stages.base import Device
from stages.pixels import Pixels

if TYPE_CHECKING:
    from stages.backends.embed.open_clip import OpenClipSettings

_PRECISION = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}


class OpenClipModel(TorchModel):
    """A folder with open_clip_config.json and weights. Needs the extra `open_clip`."""

    def __init__(self, settings: OpenClipSettings, device: Device) -> None:
        """Load both towers and the tokenizer; CheckpointError in one line if they do not fit."""
        super().__init__(device)
        self.settings = settings

        (checkpoint,) = settings.checkpoints()
        folder = locate(checkpoint)
        name = f"local-dir:{folder}"
        try:
            model, transform = open_clip.create_model_from_pretrained(
                name,
                precision=_PRECISION[device.dtype],
                image_resize_mode="squash" if settings.view == "whole" else None,
            )
            self._tokenizer = open_clip.get_tokenizer(name)
        except (*UNREADABLE, SafetensorError) as error:
            raise CheckpointError(
                f"{checkpoint}: {folder} holds no open_clip model: {first_line(error)}"
            ) from error
        self._model = model.eval().to(self.where)
        self._transform = transform

    def fits(self, text: str) -> bool:
        """Whether the text has at most 77 tokens (or what the checkpoint takes)."""
        return self._excess(text) <= 0

    def embed_images(self, images: Sequence[Pixels]) -> NDArray[np.float32]:
        """[N, D] unit rows, normalised in float32, of N uint8 [H, W, 3] RGB images."""
        rows = []
        with torch.inference_mode():
            for part in chunks(len(images), self.settings.max_batch):
                seen = [self._transform(PIL.Image.fromarray(image)) for image in images[part]]
                rows.append(
                    unit_rows(
                        self._model.encode_image(torch.stack(seen).to(self.where, self.dtype))
                    )
                )
        return np.concatenate(rows)

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """[M, D] unit rows, normalised in float32; ValueError for a text that does not fit."""
        for text in texts:
            if (excess := self._excess(text)) > 0:
                raise ValueError(
                    f"{excess} tokens too many for {self.settings.model}: {text!r:.120}"
                )
        rows = []
        with torch.inference_mode():
            for part in chunks(len(texts), self.settings.max_batch):
                tokens = self._tokenizer(list(texts[part])).to(self.where)
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
