"""Boxes and masks of named things by SAM 3 of transformers. Knows pixels and tags, not records.

Every image goes once through the image encoder and every tag once through the text encoder. Then
each tag of each image is one row of a flat list, beside the features of its image; so it does not
matter that images have different numbers of tags, and nothing is padded but the words, which the
model masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torchvision  # noqa: F401  # the network refuses to be built without it
import transformers
from torch import Tensor
from torch.nn.functional import interpolate
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.sam3.modeling_sam3 import (
    Sam3ImageSegmentationOutput,
    Sam3VisionEncoderOutput,
)

from schemas.geometry import Box
from stages.backends.weights.pretrained import load_model, load_processor, require_vocabulary
from stages.backends.weights.torch_device import TorchModel
from stages.backends.weights.torch_images import Images, chunks
from stages.base import Device
from stages.locate.detections import Detection
from stages.pixels import Pixels

if TYPE_CHECKING:
    from stages.backends.locate.sam3 import Sam3Settings


class Sam3Model(TorchModel):
    """The detector of a SAM 3 checkpoint; the tracker that the hub's files hold is left out."""

    def __init__(self, settings: Sam3Settings, device: Device) -> None:
        """Load the model: the image encoder in the device's type, the rest in float32.

        bfloat16 would round the corners of a box to multiples of 4 pixels of 1008.
        """
        super().__init__(device)
        self.settings = settings
        (checkpoint,) = settings.checkpoints()
        classes = {"sam3": transformers.Sam3Model, "sam3_video": transformers.Sam3Model}
        self._model, folder = load_model(classes, checkpoint, (self.where, torch.float32))
        self._model.vision_encoder.to(self.dtype)
        # Its own image processor exists for torchvision alone; like this one it squeezes.
        processor = load_processor(transformers.ViTImageProcessorPil, folder, checkpoint)
        self._images = Images(processor, self.where, self.dtype)
        self._tokenizer = load_processor(transformers.CLIPTokenizer, folder, checkpoint)
        wanted = self._model.config.text_config.vocab_size
        require_vocabulary(self._tokenizer, wanted, folder, checkpoint)

    def detect(
        self, images: Sequence[Pixels], tags: Sequence[Sequence[str]]
    ) -> list[list[Detection]]:
        """Every instance of every tag that is above the threshold, with its mask.

        Tag by tag, the best instance first; an instance of two tags is found twice. ValueError for
        a tag that is too long for the text encoder.
        """
        found: list[list[Detection]] = [[] for _ in images]
        asked = [k for k, own in enumerate(tags) if own]
        with torch.inference_mode():
            words = self._words(sorted({tag for own in tags for tag in own}))
            for part in chunks(len(asked), self.settings.max_batch):
                features = self._encoded([images[k] for k in asked[part]])
                rows = [(row, tag) for row, k in enumerate(asked[part]) for tag in tags[k]]
                for some in chunks(len(rows), self.settings.max_tags):
                    out = self._model(**self._inputs(features, words, rows[some]))
                    for i, (row, tag) in enumerate(rows[some]):
                        k = asked[part][row]
                        found[k] += self._instances(tag, out, i, images[k].shape[:2])
        return found

    def _words(self, tags: Sequence[str]) -> dict[str, tuple[Tensor, Tensor]]:
        """What the text encoder makes of each tag, [L, D], and which of it are words, [L]."""
        limit: int = self._model.config.text_config.max_position_embeddings
        words: dict[str, tuple[Tensor, Tensor]] = {}
        for part in chunks(len(tags), self.settings.max_tags):
            given = self._tokenizer(list(tags[part]), padding="max_length", max_length=limit)
            for tag, tokens in zip(tags[part], given["input_ids"], strict=True):
                if len(tokens) > limit:
                    raise ValueError(
                        f'tag "{tag:.80}" has {len(tokens) - 2} tokens; {limit - 2} fit into a '
                        f"prompt of {self.settings.model}"
                    )
            tokens, mask = (
                torch.tensor(given[name], device=self.where)
                for name in ("input_ids", "attention_mask")
            )
            read = self._model.get_text_features(input_ids=tokens, attention_mask=mask)
            words |= dict(zip(tags[part], zip(read.pooler_output, mask, strict=True), strict=True))
        return words

    def _encoded(self, images: Sequence[Pixels]) -> list[Tensor]:
        """float32 features of the images on each scale, [N, C, h, w], the finest first."""
        out = self._model.get_vision_features(self._images.stacked(images))
        return [feature.float() for feature in out.fpn_hidden_states]

    def _inputs(
        self,
        features: Sequence[Tensor],
        words: dict[str, tuple[Tensor, Tensor]],
        rows: Sequence[tuple[int, str]],
    ) -> dict[str, object]:
        """What the model takes for pairs of an image (by its row in `features`) and a tag."""
        places = torch.tensor([row for row, _ in rows], device=self.where)
        position = self._model.vision_encoder.neck.position_encoding
        embeds, masks = zip(*(words[tag] for _, tag in rows), strict=True)
        # In float32, too: half precision cannot count the columns of the finest scale.
        positions = [
            position((1, *feature.shape[1:]), self.where, torch.float32).expand(
                len(rows), -1, -1, -1
            )
            for feature in features
        ]
        return {
            "vision_embeds": Sam3VisionEncoderOutput(
                # The model leaves the last scale out.
                fpn_hidden_states=(*(f[places] for f in features[:-1]), features[-1]),
                fpn_position_encoding=tuple(positions),
            ),
            "text_embeds": BaseModelOutputWithPooling(pooler_output=torch.stack(embeds)),
            "attention_mask": torch.stack(masks),
        }

    def _instances(
        self, tag: str, out: Sam3ImageSegmentationOutput, row: int, size: tuple[int, ...]
    ) -> list[Detection]:
        """The instances of one row, as the library's `post_process_instance_segmentation` does."""
        height, width = size
        scores = out.pred_logits[row].sigmoid() * out.presence_logits[row].sigmoid()
        order = scores.argsort(descending=True, stable=True)[: self.settings.max_instances]
        order = order[scores[order] > self.settings.score_threshold]
        found = []
        for query in order.tolist():
            chances = out.pred_masks[row, query].sigmoid()[None, None]
            full = interpolate(chances, (height, width), mode="bilinear", align_corners=False)
            mask = (full[0, 0] > self.settings.mask_threshold).cpu().numpy()
            box = Box(*out.pred_boxes[row, query].tolist()).scaled(width, height)
            found.append(Detection(box.clipped(width, height), {tag: float(scores[query])}, mask))
        return found
