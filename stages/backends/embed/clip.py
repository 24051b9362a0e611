"""CLIP (arXiv 2103.00020) by transformers: images and sentences in one space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
from annotated_types import Ge
from numpy.typing import NDArray

from stages.backends.weights.checkpoints import Checkpoint
from stages.base import OPERATIONAL, Device
from stages.pixels import Pixels


@dataclass
class Clip:
    """A CLIP checkpoint in the layout of transformers."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    name: Literal["clip"] = "clip"
    """Selects this backend."""
    model: str = "openai/clip-vit-large-patch14-336"
    """Hub id or folder of a `clip` checkpoint."""
    revision: str | None = None
    """Revision on the hub."""
    view: Literal["crop", "whole"] = "crop"
    """"crop" is the checkpoint's own: the middle square, so what lies beside it is not seen.
    "whole" squeezes the whole image into the square."""
    max_batch: Annotated[int, Ge(1)] = field(default=32, metadata=OPERATIONAL)
    """Images, or sentences, in one pass."""
    _model: Any = field(default=None, init=False, repr=False, compare=False)
    _images: Any = field(default=None, init=False, repr=False, compare=False)
    _tokenizer: Any = field(default=None, init=False, repr=False, compare=False)

    def checkpoints(self) -> Sequence[Checkpoint]:
        """The one model. OpenAI's own of 336 px has no safetensors on its main branch."""
        weights = ("*.safetensors", "pytorch_model.bin")
        return (Checkpoint(self.model, self.revision, ("*.json", "merges.txt", *weights)),)

    def open(self, device: Device) -> None:
        """Load both towers and the tokenizer."""
        from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

        from stages.backends.weights.pretrained import load_model, load_processor
        from stages.backends.weights.torch_device import place
        from stages.backends.weights.torch_images import Images

        where, dtype = place(device)
        (checkpoint,) = self.checkpoints()
        self._model, folder = load_model({"clip": CLIPModel}, checkpoint, (where, dtype))
        self._tokenizer = load_processor(CLIPTokenizer, folder, checkpoint)
        processor = load_processor(CLIPImageProcessorPil, folder, checkpoint)
        self._images = Images(processor, where, dtype, whole=self.view == "whole")

    def close(self) -> None:
        """Free the device."""
        if self._model is not None:
            from stages.backends.weights.torch_device import free

            where = self._model.device
            self._model = self._images = self._tokenizer = None
            free(where)

    def fits(self, text: str) -> bool:
        """Whether the text has at most 77 tokens (or what the checkpoint takes)."""
        return self._excess(self._tokens(text)) <= 0

    def embed_images(self, images: Sequence[Pixels]) -> NDArray[np.float32]:
        """[N, D] unit rows, normalised in float32, of N uint8 [H, W, 3] RGB images."""
        import torch

        from stages.backends.weights.torch_images import chunks, unit_rows

        rows = []
        with torch.inference_mode():
            for part in chunks(len(images), self.max_batch):
                values = self._images.stacked(images[part])
                rows.append(unit_rows(self._model.get_image_features(values).pooler_output))
        return np.concatenate(rows)

    def embed_texts(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """[M, D] unit rows, normalised in float32; ValueError for a text that does not fit."""
        import torch

        from stages.backends.weights.torch_images import chunks, unit_rows

        for text in texts:
            if (excess := self._excess(self._tokens(text))) > 0:
                raise ValueError(f"{excess} tokens too many for {self.model}: {text!r:.120}")
        rows = []
        with torch.inference_mode():
            for part in chunks(len(texts), self.max_batch):
                inputs = self._tokenizer(list(texts[part]), padding=True, return_tensors="pt")
                made = self._model.get_text_features(**inputs.to(self._model.device))
                rows.append(unit_rows(made.pooler_output))
        return np.concatenate(rows)

    def _tokens(self, text: str) -> list[int]:
        tokens: list[int] = self._tokenizer(text, verbose=False)["input_ids"]
        return tokens

    def _excess(self, tokens: Sequence[int]) -> int:
        return len(tokens) - int(self._model.config.text_config.max_position_embeddings)
