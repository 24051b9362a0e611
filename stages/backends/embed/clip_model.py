"""CLIP (arXiv 2103.00020) by transformers: images and sentences in one space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from stages.backends.weights.pretrained import load_model, load_processor, require_vocabulary
from stages.backends.weights.torch_device import TorchModel
from stages.backends.weights.torch_images import Images, chunks, unit_rows
from stages.base import Device
from stages.pixels import Pixels

if TYPE_CHECKING:
    from stages.backends.embed.clip import ClipSettings


class ClipModel(TorchModel):
    """A CLIP checkpoint in the layout of transformers."""

    def __init__(self, settings: ClipSettings, device: Device) -> None:
        """Load both towers and the tokenizer."""
        super().__init__(device)
        self.settings = settings

        (checkpoint,) = settings.checkpoints()
        self._model, folder = load_model({"clip": CLIPModel}, checkpoint, (self.where, self.dtype))
        self._tokenizer = load_processor(CLIPTokenizer, folder, checkpoint)
        wanted = self._model.config.text_config.vocab_size
        require_vocabulary(self._tokenizer, wanted, folder, checkpoint)
        processor = load_processor(CLIPImageProcessorPil, folder, checkpoint)
        self._images = Images(processor, self.where, self.dtype, whole=settings.view == "whole")

    def fits(self, text: str) -> bool:
        """Whether the text has at most 77 tokens (or what the checkpoint takes)."""
        return self._excess(self._tokens(text)) <= 0

    def embed_images(self, images: Sequence[Pixels]) -> NDArray[np.float32]:
        """[N, D] unit rows, normalised in float32, of N uint8 [H, W, 3] RGB images."""
        rows = []
        with torch.inference_mode():
            for part in chunks(len(images), self.settings.max_batch):
                values = self._images.stacked(images[part])
                rows.append(unit_rows(self._model.get_image_features(values).pooler_output))
        return np.concatenate(rows)

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """[M, D] unit rows, normalised in float32; ValueError for a text that does not fit."""
        for text in texts:
            if (excess := self._excess(self._tokens(text))) > 0:
                raise ValueError(
                    f"{excess} tokens too many for {self.settings.model}: {text!r:.120}"
                )
        rows = []
        with torch.inference_mode():
            for part in chunks(len(texts), self.settings.max_batch):
                inputs = self._tokenizer(list(texts[part]), padding=True, return_tensors="pt")
                made = self._model.get_text_features(**inputs.to(self._model.device))
                rows.append(unit_rows(made.pooler_output))
        return np.concatenate(rows)

    def _tokens(self, text: str) -> list[int]:
        tokens: list[int] = self._tokenizer(text, verbose=False)["input_ids"]
        return tokens

    def _excess(self, tokens: Sequence[int]) -> int:
        return len(tokens) - int(self._model.config.text_config.max_position_embeddings)
