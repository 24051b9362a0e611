"""Boxes of named things by Grounding DINO (arXiv 2303.05499), by transformers.

All tags of an image stand in one prompt, "dog. red panda.", as many as fit; the model reads each
between its full stops without seeing the others. What it gives are chances for every token of the
prompt; as the prompt is put together from the tags' own tokens, which chance belongs to which tag
is known by position and not read back from decoded phrases, which run into each other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import (
    BertTokenizer,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessorPil,
)
from transformers.image_transforms import get_size_with_aspect_ratio

from schemas.geometry import Box
from stages.backends.weights.checkpoints import CheckpointError
from stages.backends.weights.pretrained import load_model, load_processor
from stages.backends.weights.torch_device import TorchModel, place
from stages.backends.weights.torch_images import Images, chunks
from stages.base import Device
from stages.locate.detections import Detection
from stages.pixels import Pixels

if TYPE_CHECKING:
    from stages.backends.locate.grounding_dino import GroundingDinoSettings

_PAD, _START, _END, _STOP, _QUESTION = 0, 101, 102, 1012, 1029
"""Tokens of BERT (uncased) at which the model cuts its prompt into tags; fixed in its code."""


class _Prompt(NamedTuple):
    """Some tags of one image."""

    image: int
    """Which image."""
    tags: list[str]
    """The tags, in order."""
    spans: list[tuple[int, int]]
    """The tokens [start, end) of each, without its full stop."""
    tokens: list[int]
    """The whole prompt."""


class GroundingDinoModel(TorchModel):
    """Weights stay in float32; with a half-precision device, products are computed in its type."""

    def __init__(self, settings: GroundingDinoSettings, device: Device) -> None:
        """Load the model, its tokenizer and the size of its images."""
        super().__init__(device)
        self.settings = settings

        self.where, self._dtype = place(device)
        (checkpoint,) = settings.checkpoints()
        classes = {"grounding-dino": GroundingDinoForObjectDetection}
        model, folder = load_model(classes, checkpoint, (self.where, torch.float32))
        self._tokenizer = load_processor(BertTokenizer, folder, checkpoint)
        wanted = {"[PAD]": _PAD, "[CLS]": _START, "[SEP]": _END, ".": _STOP, "?": _QUESTION}
        for token, number in wanted.items():
            found = self._tokenizer.convert_tokens_to_ids(token)
            if found != number:
                raise CheckpointError(
                    f"{checkpoint}: the tokenizer in {folder} gives {token!r} the number {found}, "
                    f"the model expects {number}; the vocabulary of bert-base-uncased is needed"
                )
        self._processor = load_processor(GroundingDinoImageProcessorPil, folder, checkpoint)
        edges = self._processor.size
        if not edges.get("shortest_edge") or not edges.get("longest_edge"):
            raise CheckpointError(
                f"{checkpoint}: its images are sized by {dict(edges)}; shortest_edge and "
                "longest_edge are needed"
            )
        self._images = Images(self._processor, self.where, torch.float32)
        _mend_text_positions(model)
        self._model = model

    def detect(
        self, images: Sequence[Pixels], tags: Sequence[Sequence[str]]
    ) -> list[list[Detection]]:
        """Every box with a tag that is above both thresholds.

        Boxes are not yet compared with each other. ValueError for a tag that is too long for a
        prompt of its own.
        """
        prompts = [p for k, names in enumerate(tags) for p in self._prompts(k, names)]
        sizes = {p.image: self._resized_size(images[p.image]) for p in prompts}
        prompts.sort(key=lambda prompt: sizes[prompt.image])  # stable: their order else
        found: list[list[Detection]] = [[] for _ in images]
        for size, group in groupby(prompts, key=lambda prompt: sizes[prompt.image]):
            same = list(group)
            for part in chunks(len(same), self.settings.max_batch):
                batch = same[part]
                chances, boxes = self._run([images[p.image] for p in batch], size, batch)
                for prompt, chance, box in zip(batch, chances, boxes, strict=True):
                    height, width = images[prompt.image].shape[:2]
                    found[prompt.image] += _above(self.settings, prompt, chance, box, width, height)
        return found

    def _prompts(self, image: int, tags: Sequence[str]) -> Iterator[_Prompt]:
        """As few prompts as hold the tags in order, within the model's limit on tokens."""
        limit: int = self._model.config.max_text_len
        prompt = _Prompt(image, [], [], [_START])
        for tag in tags:
            # Within a tag these would cut it in two.
            tokens = [t for t in self._tokens(tag) if t not in (_STOP, _QUESTION)]
            if len(tokens) + 3 > limit:
                raise ValueError(
                    f'tag "{tag:.80}" has {len(tokens)} tokens; {limit - 3} fit into a prompt of '
                    f"{self.settings.model}"
                )
            if not tokens:
                continue
            if len(prompt.tokens) + len(tokens) + 2 > limit:
                yield prompt._replace(tokens=[*prompt.tokens, _END])
                prompt = _Prompt(image, [], [], [_START])
            start = len(prompt.tokens)
            prompt.tags.append(tag)
            prompt.spans.append((start, start + len(tokens)))
            prompt.tokens.extend([*tokens, _STOP])
        if prompt.tags:
            yield prompt._replace(tokens=[*prompt.tokens, _END])

    def _tokens(self, tag: str) -> list[int]:
        tokens: list[int] = self._tokenizer(tag.lower(), add_special_tokens=False)["input_ids"]
        return tokens

    def _resized_size(self, image: Pixels) -> tuple[int, int]:
        """Rows and columns of the image as the model sees it."""
        edges = self._processor.size
        size = get_size_with_aspect_ratio(
            image.shape[:2], edges["shortest_edge"], edges["longest_edge"]
        )
        step = self.settings.side_step
        rows, columns = (max(step, round(side / step) * step) for side in size)
        return rows, columns

    def _run(
        self, images: Sequence[Pixels], size: tuple[int, int], prompts: Sequence[_Prompt]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Chances [N, queries, tokens] and boxes [N, queries, 4] as shares of the image.

        Images of one size, since nothing in the model hides padding from its convolutions,
        windows and group norms; prompts are padded, which it does hide.
        """
        longest = max(len(prompt.tokens) for prompt in prompts)
        rows = [p.tokens + [_PAD] * (longest - len(p.tokens)) for p in prompts]
        with (
            torch.inference_mode(),
            torch.autocast(
                self._model.device.type, self._dtype, enabled=self._dtype != torch.float32
            ),
        ):
            tokens = torch.tensor(rows, device=self._model.device)
            out = self._model(
                pixel_values=self._pixels(images, size),
                input_ids=tokens,
                attention_mask=(tokens != _PAD).long(),
            )
            chances = out.logits[..., :longest].float().sigmoid()
        return chances.cpu().numpy(), out.pred_boxes.float().cpu().numpy()

    def _pixels(self, images: Sequence[Pixels], size: tuple[int, int]) -> Tensor:

        planes = [
            torch.from_numpy(
                np.array(Image.fromarray(image).resize(size[::-1], self._processor.resample))
            ).permute(2, 0, 1)
            for image in images
        ]
        pixels: Tensor = self._images.normalized(torch.stack(planes))
        return pixels


def _mend_text_positions(model: Any) -> None:
    """Give the model the text positions that it was trained with.

    transformers 5.16 to 5.20 number the tokens of a tag from 0 but give its full stop 0 again
    instead of the next number, and round the sine embeddings of the numbers to whole ones
    (huggingface/transformers issue 47674). With both mended the outputs are those of 4.57, which
    were checked against the authors' code. Where the library is right this changes nothing.
    """

    def count(_module: object, args: tuple[Any, ...]) -> tuple[Any, ...]:
        tokens, mask, types, _ = args
        positions[:] = [_text_positions(tokens)]
        return tokens, mask, types, positions[0]

    def refine(_module: object, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {**kwargs, "text_position_ids": positions[0].float()}

    positions: list[Tensor] = []
    model.model.text_backbone.register_forward_pre_hook(count)
    model.model.encoder.register_forward_pre_hook(refine, with_kwargs=True)


def _text_positions(tokens: Tensor) -> Tensor:
    """[N, L] places of tokens within their tag, its full stop last; 0 for what is in no tag."""
    numbers = torch.arange(tokens.shape[1], device=tokens.device).expand_as(tokens)
    cuts = torch.isin(tokens, torch.tensor([_START, _END, _STOP, _QUESTION], device=tokens.device))
    last = torch.where(cuts, numbers, -1).cummax(1).values
    before = torch.nn.functional.pad(last[:, :-1], (1, 0), value=-1)
    outside = (tokens == _PAD) | (tokens == _START) | (tokens == _END)
    return (numbers - before - 1).masked_fill(outside, 0)


def _above(  # noqa: PLR0917  # what one pass gives, in its order
    settings: GroundingDinoSettings,
    prompt: _Prompt,
    chances: NDArray[np.float32],
    boxes: NDArray[np.float32],
    width: int,
    height: int,
) -> list[Detection]:
    """Of every query the likeliest tag that passes both thresholds, and its near equals.

    With them go, as faint, the other tags that are above the lower limit.
    """
    edges = [edge for span in prompt.spans for edge in span]
    lengths = np.diff(prompt.spans)[:, 0]
    # Spans are apart by a full stop: every second stretch between edges is one.
    best = np.maximum.reduceat(chances, edges, axis=1)[:, ::2]
    mean = np.add.reduceat(chances, edges, axis=1)[:, ::2] / lengths
    score = np.where((best > settings.box_threshold) & (mean > settings.text_threshold), best, 0)
    likely = (best > settings.faint_threshold) & (mean > settings.faint_threshold)
    found: list[Detection] = []
    for query in np.flatnonzero(score.max(1) > 0):
        x, y, w, h = boxes[query].tolist()
        box = Box(x - w / 2, y - h / 2, x + w / 2, y + h / 2).scaled(width, height)
        box = box.clipped(width, height)
        named = score[query] >= settings.synonym_share * score[query].max()
        names, rest = (
            {prompt.tags[tag]: float(best[query, tag]) for tag in np.flatnonzero(which)}
            for which in (named, ~named & likely[query])
        )
        found.append(Detection(box, names, faint=rest))
    return found
