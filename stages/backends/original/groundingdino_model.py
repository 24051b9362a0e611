"""Grounding DINO by groundingdino-py, for the authors' .pth checkpoints: one prompt at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import groundingdino
import PIL.Image
import torch
from groundingdino.datasets import transforms
from groundingdino.models import build_model
from groundingdino.util.misc import clean_state_dict
from groundingdino.util.slconfig import SLConfig

from schemas.geometry import Box
from stages.backends.weights.checkpoints import (
    UNREADABLE,
    CheckpointError,
    first_line,
    locate,
)
from stages.backends.weights.torch_device import TorchModel
from stages.base import Device
from stages.locate.detections import Detection
from stages.pixels import Pixels

if TYPE_CHECKING:
    from stages.backends.original.groundingdino import GroundingDinoPySettings

Span = tuple[int, int]


class GroundingDinoPyModel(TorchModel):
    """groundingdino-py 0.4.0 with transformers below 5. Its successor is `grounding_dino`."""

    def __init__(self, settings: GroundingDinoPySettings, device: Device) -> None:
        """Load the file; CheckpointError in one line if a weight is missing.

        The package itself leaves missing weights at random.
        """
        super().__init__(device)
        self.settings = settings

        path, text_encoder = (locate(checkpoint) for checkpoint in settings.checkpoints())
        packaged = Path(groundingdino.__file__).parent / "config" / settings.config
        built = SLConfig.fromfile(str(packaged if packaged.is_file() else settings.config))
        built.device, built.text_encoder_type = str(self.where), str(text_encoder)
        try:
            model = build_model(built)
            weights = clean_state_dict(torch.load(path, map_location="cpu")["model"])
            lacking = model.load_state_dict(weights, strict=False).missing_keys
        except (*UNREADABLE, AttributeError, TypeError) as error:
            raise CheckpointError(
                f"{path} holds no model of {settings.config}: {first_line(error)}"
            ) from error
        if lacking:
            raise CheckpointError(
                f"{path} lacks {len(lacking)} weights of {settings.config}, such as {lacking[0]}"
            )
        self._model = model.eval().to(self.where)
        self._transform = transforms.Compose(
            [
                transforms.RandomResize([800], max_size=1333),  # one size: nothing is drawn
                transforms.ToTensor(),
                transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
            ]
        )

    def detect(
        self, images: Sequence[Pixels], tags: Sequence[Sequence[str]]
    ) -> list[list[Detection]]:
        """Whatever is above both thresholds."""
        return [self._found(image, own) for image, own in zip(images, tags, strict=True)]

    def _found(self, image: Pixels, tags: Sequence[str]) -> list[Detection]:

        height, width = image.shape[:2]
        values, _ = self._transform(PIL.Image.fromarray(image), None)
        found = []
        for prompt, spans in self._prompts(tags):
            with torch.inference_mode():
                out = self._model(values[None].to(self.where), captions=[prompt])
            chances, boxes = out["pred_logits"][0].sigmoid().cpu(), out["pred_boxes"][0].cpu()
            for tag, (start, end) in spans:
                own = chances[:, start:end]
                best = own.max(dim=1).values
                good = (best >= self.settings.box_threshold) & (
                    own.mean(dim=1) >= self.settings.text_threshold
                )
                for k in good.nonzero()[:, 0].tolist():
                    x, y, w, h = boxes[k].tolist()
                    box = Box(x - w / 2, y - h / 2, x + w / 2, y + h / 2).scaled(width, height)
                    found.append(Detection(box.clipped(width, height), {tag: float(best[k])}))
        return found

    def _prompts(self, tags: Sequence[str]) -> Iterator[tuple[str, list[tuple[str, Span]]]]:
        """Prompts "dog. red panda." as long as the model takes, with the tokens of each tag."""
        words: list[str] = []
        spans: list[tuple[str, Span]] = []
        at = 1  # behind the start token
        for tag in tags:
            word = " ".join(tag.lower().replace(".", " ").split())
            size = len(self._model.tokenizer.tokenize(word))
            if size + 3 > self._model.max_text_len:
                raise ValueError(f"{size} tokens are too many for one tag: {tag!r:.80}")
            if size == 0:
                continue
            if words and at + size + 2 > self._model.max_text_len:
                yield ". ".join(words) + ".", spans
                words, spans, at = [], [], 1
            words.append(word)
            spans.append((tag, (at, at + size)))
            at += size + 1  # the full stop
        if words:
            yield ". ".join(words) + ".", spans
