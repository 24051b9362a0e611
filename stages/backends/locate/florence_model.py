"""Things and their boxes by Florence-2 (arXiv 2311.06242): its object detection task, as text.

The model writes "dog<loc_101><loc_240>...": a name, then four of 1000 places for each box. A tagger
takes the names, a detector the boxes; both are read from the tokens, so that each token's chance
is at hand for a score.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoTokenizer, CLIPImageProcessorPil, Florence2ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from schemas.geometry import Box
from stages.backends.weights.checkpoints import CheckpointError
from stages.backends.weights.pretrained import load_model, load_processor
from stages.backends.weights.torch_device import TorchModel
from stages.backends.weights.torch_images import Images, chunks
from stages.base import Device
from stages.locate.detections import Detection
from stages.pixels import Pixels

if TYPE_CHECKING:
    from stages.backends.locate.florence import FlorenceSettings

_PROMPT = "Locate the objects with category name in the image."
"""What stands for the task `<OD>` in training."""

_BINS = 1000
"""Places along either side of the image."""

Found = tuple[str, Box, float]


class FlorenceModel(TorchModel):
    """Object detection without a list of classes; the same backend tags and detects."""

    def __init__(self, settings: FlorenceSettings, device: Device) -> None:
        """Load the model and its tokenizer; CheckpointError if they cannot do what is asked."""
        super().__init__(device)
        self.settings = settings

        (checkpoint,) = settings.checkpoints()
        classes = {"florence2": Florence2ForConditionalGeneration}
        model, folder = load_model(classes, checkpoint, (self.where, self.dtype))
        self._tokenizer = load_processor(AutoTokenizer, folder, checkpoint)
        tokens = self._tokenizer.get_vocab()
        missing = [i for i in range(_BINS) if f"<loc_{i}>" not in tokens]
        if missing:
            raise CheckpointError(
                f"{checkpoint}: the tokenizer in {folder} lacks {len(missing)} of the {_BINS} "
                f"tokens of places, such as <loc_{missing[0]}>"
            )
        most = model.config.text_config.max_position_embeddings
        if settings.max_new_tokens >= most:
            raise CheckpointError(
                f"{checkpoint} can write {most - 1} tokens; max_new_tokens is "
                f"{settings.max_new_tokens}"
            )
        self._places = {tokens[f"<loc_{i}>"]: i for i in range(_BINS)}
        processor = load_processor(CLIPImageProcessorPil, folder, checkpoint)
        self._images = Images(processor, self.where, self.dtype)
        self._model = model

    def tag(self, images: Sequence[Pixels]) -> list[list[tuple[str, float]]]:
        """The names of the things found in each image, each with the score of its best box."""
        tags = []
        for found in self._objects(images):
            best: dict[str, float] = {}
            for name, _, score in found:
                best[name] = max(score, best.get(name, 0.0))
            tags.append(list(best.items()))
        return tags

    def detect(
        self, images: Sequence[Pixels], tags: Sequence[Sequence[str]]
    ) -> list[list[Detection]]:
        """The boxes of those things whose name is a tag of the image, in any case.

        The model names things in its own words: ask it for tags that it gave.
        """
        asked = [{" ".join(tag.split()).casefold(): tag for tag in own} for own in tags]
        return [
            [
                Detection(box, {own[n.casefold()]: score})
                for n, box, score in found
                if n.casefold() in own
            ]
            for own, found in zip(asked, self._objects(images), strict=True)
        ]

    def _objects(self, images: Sequence[Pixels]) -> list[list[Found]]:

        found = []
        for part in chunks(len(images), self.settings.max_batch):
            for image, tokens, chances in zip(
                images[part], *self._written(images[part]), strict=True
            ):
                height, width = image.shape[:2]
                found.append(self._read(tokens.tolist(), chances.tolist(), width, height))
        return found

    def _written(self, images: Sequence[Pixels]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """[N, L] tokens that the model writes, and the logarithms of their chances."""
        with torch.inference_mode():
            hidden = self._encoded(self._images.stacked(images))
            # A copy for the search, which spreads it over the beams in place.
            tokens = self._model.generate(
                encoder_outputs=BaseModelOutput(last_hidden_state=hidden.clone()),
                attention_mask=hidden.new_ones(hidden.shape[:2], dtype=torch.long),
                num_beams=self.settings.num_beams,
                max_new_tokens=self.settings.max_new_tokens,
                do_sample=False,
            )
            # Of the text as it stands: the search's own scores know of forced tokens and beams.
            out = self._model.model(
                encoder_outputs=BaseModelOutput(last_hidden_state=hidden),
                decoder_input_ids=tokens[:, :-1],
            )
            rows = []
            for states, row in zip(out.last_hidden_state, tokens[:, 1:], strict=True):
                # Row by row: in float32 a batch of long texts times the vocabulary is gigabytes.
                chances = self._model.lm_head(states).float().log_softmax(-1)
                rows.append(chances.gather(1, row[:, None])[:, 0])
            return tokens[:, 1:].cpu().numpy(), torch.stack(rows).cpu().numpy()

    def _encoded(self, pixels: Tensor) -> Tensor:
        """[N, L, D] what the text encoder makes of the images and the task."""
        features = self._model.get_image_features(pixels).pooler_output
        text = f"{self._tokenizer.bos_token}{_PROMPT}{self._tokenizer.eos_token}"
        ids = self._tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
        words = self._model.get_input_embeddings()(ids.to(pixels.device))
        together = torch.cat([features.to(words.dtype), words.expand(len(pixels), -1, -1)], 1)
        hidden: Tensor = self._model.get_encoder()(inputs_embeds=together).last_hidden_state
        return hidden

    def _read(
        self, tokens: Sequence[int], chances: Sequence[float], width: int, height: int
    ) -> list[Found]:
        """The things in a written text; what has no name or fewer than four places is left out."""
        found: list[Found] = []
        name: list[tuple[int, float]] = []
        places: list[tuple[float, float]] = []
        special = set(self._tokenizer.all_special_ids) - set(self._places)
        for token, chance in zip(tokens, chances, strict=True):
            if token == self._tokenizer.eos_token_id and (name or places):
                break
            if token in special:
                continue
            if token not in self._places:
                if places:
                    name, places = [], []
                name.append((token, chance))
                continue
            places.append(((self._places[token] + 0.5) / _BINS, chance))
            text = self._tokenizer.decode([t for t, _ in name], skip_special_tokens=True).strip()
            if len(places) % 4 == 0 and text:
                four = places[-4:]
                mean = np.mean([c for _, c in name] + [c for _, c in four])
                box = Box(*(p for p, _ in four)).scaled(width, height)
                found.append((" ".join(text.split()), box, float(np.exp(mean))))
        return found
