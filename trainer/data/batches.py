"""Pairs and views to model inputs: what is drawn, decoded, tokenised and packed. Knows no weights.

Everything that a row draws (the crop, which of two images comes first) comes from the run's seed,
the pair's id and the epoch. A batch is drawn once, and policy and reference read the same batch.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import PIL.Image
import torch
from numpy.typing import NDArray
from torch import Tensor

from schemas.ids import content_id, row_seed
from schemas.records import Span
from trainer.data.counting import factors
from trainer.data.draws import Draws, draw_crop, noised
from trainer.data.packing import Packed, Places, Reading, pack
from trainer.data.rows import Row
from trainer.errors import UsageError
from trainer.families import (
    ANCHORS,
    AnswerTokens,
    Family,
    ImageFeatures,
    ImageTensors,
    Pixels,
    PromptTokens,
    joined,
)
from trainer.losses.views import Answer, Images, Quantity, Tokens, View


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """Facts of an image in a batch, beside its tensors."""

    entries: Mapping[str, int]
    """How many entries of each tensor are its own."""
    num_features: int
    """As in `Pixels`."""
    num_patches: int
    """As in `Pixels`."""
    alone: bool
    """As in `Pixels`."""


@dataclass(frozen=True)
class Hidden:
    """A model's hidden states before the tokens whose distributions are compared."""

    states: Tensor
    """Hidden states [N, H], with gradient for the policy."""
    head: Callable[[Tensor], Tensor]
    """States to logits over the vocabulary."""
    vocabulary: int
    """How many logits."""
    places: Places
    """Which of the states count in which cell."""


class Exchange:
    """What the policy's and the reference's forward of a batch share.

    Neither a dataclass nor a dict: FSDP passes copies of those to the module, so that what one
    forward stores there is lost to the other.
    """

    def __init__(self) -> None:
        """Start empty."""
        self.features: dict[int, tuple[ImageFeatures, ...]] = {}
        """Encoded images by `id` of the model. The first forward stores them if tower and projector
        are frozen, so that policy and reference with the same weights encode each image once."""
        self.hidden: list[Hidden] = []
        """For views that compare distributions: hidden states of the policy's forward, then of the
        reference's, for `trainer.model.token_kl`."""


@dataclass
class Batch:
    """Some rows in all their views."""

    views: tuple[View, ...]
    """Columns of the table; cell b * len(views) + v is row b in view v."""
    pair_ids: tuple[str, ...]
    """Pair ids of the rows."""
    digests: tuple[str, ...]
    """Content id of each row's texts and images."""
    draws: tuple[Draws, ...]
    """What was drawn for each row."""
    packed: list[Packed]
    """Token rows: trees of views, or one view each."""
    images: tuple[ImageFacts, ...]
    """The distinct images of the batch, in the order of `pixels`."""
    pixels: dict[str, Tensor]
    """Tensors of all images, one after the other."""
    device: torch.device | str = "cpu"
    """Device of its pixels and its tables."""
    exchange: Exchange = field(default_factory=Exchange, compare=False)
    """Shared by the two forwards of this batch."""

    def __len__(self) -> int:
        return len(self.pair_ids)

    def image_tensors(self) -> list[ImageTensors]:
        """The tensors of each image."""
        each = {
            name: torch.split(x, [image.entries[name] for image in self.images])
            for name, x in self.pixels.items()
        }
        return [{name: parts[n] for name, parts in each.items()} for n in range(len(self.images))]

    def to(self, device: torch.device | str) -> Batch:
        """The batch with its pixels on a device."""
        moved = {key: x.to(device, non_blocking=True) for key, x in self.pixels.items()}
        return replace(self, pixels=moved, device=device)

    def pin_memory(self) -> Batch:
        """The batch with its pixels where a GPU can fetch them while it computes."""
        return replace(self, pixels={key: x.pin_memory() for key, x in self.pixels.items()})


@dataclass(frozen=True)
class BatchBuilder:
    """Makes batches of the views that a loss reads. Travels to processes that prepare them."""

    family: Family
    """Of the model."""
    views: frozenset[View]
    """Cells to fill."""
    seed: int
    """The run's seed."""
    share_prompts: bool = True
    """Whether views that begin alike share a token row (`trainer.data.packing`); off for attention
    kernels that know only causal masks, like FlashAttention."""

    def __call__(self, rows: Sequence[Row], epoch: int) -> Batch:
        """The rows in all views, as drawn for an epoch.

        Raises UsageError naming a pair whose image cannot be decoded, whose texts hold image
        placeholders, or that is longer than the model's context (`trainer.data.fits` leaves those
        out).
        """
        views = tuple(sorted(self.views, key=lambda view: view.key))
        pixels: list[Pixels] = []
        packed: list[Packed] = []
        draws = []
        for number, row in enumerate(rows):
            try:
                drawn, shown = self._images(row, epoch)
                draws.append(drawn)
                prompts = self._prompts(row, drawn, shown, pixels)
                readings = self._readings(row, prompts, views, number * len(views))
            except ValueError as error:
                raise UsageError(f"pair {row.pair_id} cannot be used: {error}") from error
            packed += pack(readings, share=self.share_prompts)
        return Batch(
            views=views,
            pair_ids=tuple(row.pair_id for row in rows),
            digests=tuple(row_digest(row) for row in rows),
            draws=tuple(draws),
            packed=packed,
            images=tuple(
                ImageFacts(
                    entries={name: len(x) for name, x in p.tensors.items()},
                    num_features=p.num_features,
                    num_patches=p.num_patches,
                    alone=p.alone,
                )
                for p in pixels
            ),
            pixels=joined([p.tensors for p in pixels]),
        )

    def lengths(self, row: Row, num_tokens: Sequence[int], num_tokens_of_two: int) -> list[int]:
        """Tokens of every view's prompt and answer, whatever is drawn.

        `num_tokens` are those of the chosen and the rejected image alone in a prompt;
        `num_tokens_of_two` those of both together. ValueError for a text with placeholders.
        """
        found = []
        for prompt_of, answers in _by_prompt(self.views).items():
            images, _ = prompt_of
            match images:
                case Images.NONE:
                    shown, tokens = 0, 0
                case Images.BOTH:
                    shown, tokens = 2, num_tokens_of_two
                case Images.REJECTED:
                    shown, tokens = 1, num_tokens[1]
                case Images.CHOSEN | Images.CROP | Images.NOISED:
                    shown, tokens = 1, num_tokens[0]
            text = _question(row, prompt_of, chosen_first=True)
            length = self.family.prompt_length(text, shown) + tokens
            found += [length + len(self.family.answer(_text(row, a)).ids) for a in answers]
        return found

    def _images(self, row: Row, epoch: int) -> tuple[Draws, dict[Images, PIL.Image.Image]]:
        """What is drawn for the row, and the images that the views show."""
        roles = {role for view in self.views for role in _shown(view)}
        shown: dict[Images, PIL.Image.Image] = {}
        if roles & {Images.CHOSEN, Images.CROP, Images.NOISED}:
            shown[Images.CHOSEN] = decode(row.chosen_image.bytes)
        if Images.REJECTED in roles:
            shown[Images.REJECTED] = decode(row.rejected_image.bytes)
        crop = None
        if Images.CROP in roles:
            whole = shown[Images.CHOSEN]
            crop = draw_crop(row_seed(self.seed, row.pair_id, "crop", epoch), whole.size)
            # Cut first: `resize(box=)` would let pixels around the box in at its edges.
            shown[Images.CROP] = whole.crop(crop).resize(whole.size, PIL.Image.Resampling.BICUBIC)
        if Images.NOISED in roles:
            shown[Images.NOISED] = shown[Images.CHOSEN]
        first = row_seed(self.seed, row.pair_id, "order", epoch) % 2 == 0
        return Draws(first, crop, row_seed(self.seed, row.pair_id, "noise", epoch)), shown

    def _prompts(
        self,
        row: Row,
        draws: Draws,
        shown: dict[Images, PIL.Image.Image],
        pixels: list[Pixels],
    ) -> dict[_PromptOf, PromptTokens]:
        """The prompts of the row's views; their images are appended to `pixels`, each once."""
        numbers: dict[tuple[tuple[Images, ...], Images], int] = {}
        found = {}
        for prompt_of in _by_prompt(self.views):
            roles = _roles(prompt_of[0], draws)
            # Where an image's pixels depend on its company, it is another input in each.
            company = roles if self.family.tiles_alone and len(roles) > 1 else ()
            missing = [role for role in roles if (company, role) not in numbers]
            for role, made in zip(
                missing, self.family.pixels([shown[role] for role in missing]), strict=True
            ):
                numbers[company, role] = len(pixels)
                pixels.append(self._noised(made, draws) if role is Images.NOISED else made)
            here = np.array([numbers[company, role] for role in roles] or [-1])
            text = _question(row, prompt_of, chosen_first=draws.chosen_first)
            prompt = self.family.prompt(text, [pixels[n].ids for n in here if n >= 0])
            placed = np.where(prompt.image >= 0, here[prompt.image], -1)
            found[prompt_of] = PromptTokens(prompt.ids, placed)
        return found

    def _noised(self, pixels: Pixels, draws: Draws) -> Pixels:
        frames = getattr(self.family.processor.image_processor, "temporal_patch_size", 1)
        return noised(pixels, draws.noise, frames=frames)

    def _readings(
        self,
        row: Row,
        prompts: dict[_PromptOf, PromptTokens],
        views: tuple[View, ...],
        first_cell: int,
    ) -> list[Reading]:
        found = []
        for prompt_of, answers in _by_prompt(self.views).items():
            prompt = prompts[prompt_of]
            for answer, of_answer in answers.items():
                tokens = self._answer(row, answer, of_answer)
                length = len(prompt.ids) + len(tokens.ids)
                if length > self.family.context:
                    raise ValueError(
                        f"{length} tokens, but the context of the model is {self.family.context}; "
                        "set max_tokens, which leaves such rows out"
                    )
                cells: list[tuple[int, NDArray[np.float32]]] = []
                compared: list[tuple[int, NDArray[np.float32]]] = []
                for view in of_answer:
                    other = None if view.against is None else self._answer(row, view.against, ())
                    cell = (first_cell + views.index(view), factors(view, tokens, other))
                    (compared if view.quantity is Quantity.KL else cells).append(cell)
                found.append(Reading(prompt, tokens.ids, tuple(cells), tuple(compared)))
        return found

    def _answer(self, row: Row, answer: Answer, views: Sequence[View]) -> AnswerTokens:
        spans = _spans(row, answer) if any(v.tokens is Tokens.SPANS for v in views) else ()
        return self.family.answer(_text(row, answer), spans)


_PromptOf = tuple[Images, Images | None]
"""What a prompt depends on: the images shown, and which of two is named."""


def row_digest(row: Row) -> str:
    """Content id of all that a row's cells depend on."""
    marked = [row.chosen_spans, row.counterfactual_spans]
    if row.rejected_spans is not None:  # as before where they are not known: old references hold
        marked.append(row.rejected_spans)
    spans = [str(x) for s in marked for x in (*s, "/")]
    texts = [repr(x) for x in (row.prompt, row.chosen, row.rejected, row.counterfactual)]
    return content_id(*texts, *spans, row.chosen_image.bytes, row.rejected_image.bytes)


def decode(data: bytes) -> PIL.Image.Image:
    """An image's pixels as RGB; ValueError for one that is damaged."""
    try:
        with PIL.Image.open(io.BytesIO(data)) as image:
            return image.convert("RGB")
    except (OSError, SyntaxError) as error:
        name = type(error).__name__
        raise ValueError(f"its image of {len(data)} bytes cannot be decoded ({name})") from error


def _by_prompt(views: frozenset[View]) -> dict[_PromptOf, dict[Answer, list[View]]]:
    """The views by prompt and then by answer, in an order that never changes."""
    found: dict[_PromptOf, dict[Answer, list[View]]] = {}
    for view in sorted(views, key=lambda view: view.key):
        of_prompt = found.setdefault((view.images, view.anchor), {})
        of_prompt.setdefault(view.answer, []).append(view)
    return found


def _shown(view: View) -> tuple[Images, ...]:
    """Roles of the images that a view shows, in any order."""
    if view.images is Images.BOTH:
        return (Images.CHOSEN, Images.REJECTED)
    return () if view.images is Images.NONE else (view.images,)


def _roles(images: Images, draws: Draws) -> tuple[Images, ...]:
    """Roles of the images of a prompt in the order drawn."""
    if images is not Images.BOTH:
        return () if images is Images.NONE else (images,)
    both = (Images.CHOSEN, Images.REJECTED)
    return both if draws.chosen_first else both[::-1]


def _question(row: Row, prompt_of: _PromptOf, *, chosen_first: bool) -> str:
    """The user's text: the prompt, and of two images which one is meant."""
    _, anchor = prompt_of
    if anchor is None:
        return row.prompt
    return f"{row.prompt} {ANCHORS[(anchor is Images.CHOSEN) is not chosen_first]}"


def _text(row: Row, answer: Answer) -> str:
    text: str | None = getattr(row, str(answer))
    if text is None:
        raise ValueError(f"its {answer} answer is missing; leave such rows out with Rows.usable")
    return text


def _spans(row: Row, answer: Answer) -> Sequence[Span]:
    spans: Sequence[Span] | None = getattr(row, f"{answer}_spans")
    return spans or ()
