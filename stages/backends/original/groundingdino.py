"""Grounding DINO by groundingdino-py, for the authors' .pth checkpoints: one prompt at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import PIL.Image
from annotated_types import Ge, Le

from schemas.geometry import Box
from stages.backends.weights.checkpoints import (
    UNREADABLE,
    Checkpoint,
    CheckpointError,
    first_line,
    locate,
)
from stages.base import DECIDING_FILE, Device
from stages.locate.detections import Detection
from stages.pixels import Pixels

Span = tuple[int, int]

_SOURCE = "github.com/IDEA-Research/GroundingDINO, under releases"


@dataclass
class GroundingDinoPy:
    """groundingdino-py 0.4.0 with transformers below 5. Its successor is `grounding_dino`.

    Thresholds mean the same as there.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    name: Literal["groundingdino_py"] = "groundingdino_py"
    """Selects this backend."""
    model: str = "groundingdino_swint_ogc.pth"
    """The checkpoint's file, as its authors publish it."""
    config: str = field(default="GroundingDINO_SwinT_OGC.py", metadata=DECIDING_FILE)
    """One of the package's configurations, or a file; it is run as Python code."""
    text_encoder: str = "google-bert/bert-base-uncased"
    """Hub id or folder of the BERT whose tokenizer and layout the checkpoint uses."""
    box_threshold: Annotated[float, Ge(0), Le(1)] = 0.25
    """Least chance of the likeliest token of a tag, which is the score of its box."""
    text_threshold: Annotated[float, Ge(0), Le(1)] = 0.2
    """Least mean chance of a tag's tokens."""
    _model: Any = field(default=None, init=False, repr=False, compare=False)
    _transform: Any = field(default=None, init=False, repr=False, compare=False)
    _device: Any = field(default=None, init=False, repr=False, compare=False)

    def checkpoints(self) -> Sequence[Checkpoint]:
        """The checkpoint, and BERT."""
        return (Checkpoint(self.model, source=_SOURCE), Checkpoint(self.text_encoder))

    def open(self, device: Device) -> None:
        """Load the file; CheckpointError in one line if a weight is missing.

        The package itself leaves missing weights at random.
        """
        import torch

        from stages.backends.weights.torch_device import place

        try:
            import groundingdino
            from groundingdino.datasets import transforms
            from groundingdino.models import build_model
            from groundingdino.util.misc import clean_state_dict
            from groundingdino.util.slconfig import SLConfig
        except ImportError as error:
            raise CheckpointError(
                f"the backend groundingdino_py cannot be imported ({error}); give its actor group "
                "an environment with groundingdino-py and transformers below 5, or take the "
                "backend grounding_dino"
            ) from None
        self._device, _ = place(device)
        path, text_encoder = (locate(checkpoint) for checkpoint in self.checkpoints())
        packaged = Path(groundingdino.__file__).parent / "config" / self.config
        settings = SLConfig.fromfile(str(packaged if packaged.is_file() else self.config))
        settings.device, settings.text_encoder_type = str(self._device), str(text_encoder)
        try:
            model = build_model(settings)
            weights = clean_state_dict(torch.load(path, map_location="cpu")["model"])
            lacking = model.load_state_dict(weights, strict=False).missing_keys
        except (*UNREADABLE, AttributeError, TypeError) as error:
            raise CheckpointError(
                f"{path} holds no model of {self.config}: {first_line(error)}"
            ) from error
        if lacking:
            raise CheckpointError(
                f"{path} lacks {len(lacking)} weights of {self.config}, such as {lacking[0]}"
            )
        self._model = model.eval().to(self._device)
        self._transform = transforms.Compose(
            [
                transforms.RandomResize([800], max_size=1333),  # one size: nothing is drawn
                transforms.ToTensor(),
                transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
            ]
        )

    def close(self) -> None:
        """Free the device."""
        if self._model is not None:
            from stages.backends.weights.torch_device import free

            self._model = self._transform = None
            free(self._device)

    def detect(
        self, images: Sequence[Pixels], tags: Sequence[Sequence[str]]
    ) -> list[list[Detection]]:
        """Whatever is above both thresholds."""
        return [self._found(image, own) for image, own in zip(images, tags, strict=True)]

    def _found(self, image: Pixels, tags: Sequence[str]) -> list[Detection]:
        import torch

        height, width = image.shape[:2]
        values, _ = self._transform(PIL.Image.fromarray(image), None)
        found = []
        for prompt, spans in self._prompts(tags):
            with torch.inference_mode():
                out = self._model(values[None].to(self._device), captions=[prompt])
            chances, boxes = out["pred_logits"][0].sigmoid().cpu(), out["pred_boxes"][0].cpu()
            for tag, (start, end) in spans:
                own = chances[:, start:end]
                best = own.max(dim=1).values
                good = (best >= self.box_threshold) & (own.mean(dim=1) >= self.text_threshold)
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
