"""Which rows fit the model: no text is ever truncated, so rows that do not fit are left out.

Nor is a row kept of which the model's own processor cuts away all that differs.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, field

import PIL.Image
import torch

from trainer.data.batches import BatchBuilder, decode
from trainer.data.rows import Row, Rows
from trainer.errors import UsageError
from trainer.families import ANCHORS, Family
from trainer.losses.views import Images

_SPECIAL_TOKENS = 8
"""More than any tokenizer adds around a text."""

Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Fit:
    """How many rows fit the model."""

    limit: int
    """Tokens of prompt and answer, images included, that a view may have."""
    total: int
    """Rows looked at."""
    too_long: tuple[str, ...]
    """Pair ids of rows of which some view has more."""
    placeholders: tuple[str, ...]
    """Pair ids of rows whose prompt holds the model's image placeholder as text."""
    alike: tuple[str, ...] = ()
    """Pair ids of rows whose images are equal after processing: the difference is cropped away."""

    @property
    def kept(self) -> int:
        """Rows that fit."""
        return self.total - len(self.too_long) - len(self.placeholders) - len(self.alike)

    def __str__(self) -> str:
        """One line for a person."""
        if self.kept == self.total:
            return f"all {self.total} rows fit into {self.limit} tokens"
        parts = []
        if self.too_long:
            parts.append(f"{len(self.too_long)} have more than {self.limit} tokens")
        if self.placeholders:
            parts.append(f"{len(self.placeholders)} hold an image placeholder in their prompt")
        if self.alike:
            parts.append(f"{len(self.alike)} differ only where the model's processor cuts images")
        return f"of {self.total} rows {' and '.join(parts)}; {self.kept} are left"


def fit(rows: Rows, builder: BatchBuilder, max_tokens: int | None) -> tuple[Rows, Fit]:
    """The rows of which every view fits, and a report.

    The limit is `max_tokens` and in any case the model's context. Reads every row once, but
    processes no image: how many tokens one has follows from its size. Only where the processor cuts
    edges away and the views show both images are these decoded and compared. UsageError where no
    row fits, and for an image that cannot be decoded.
    """
    (kept,), report = fit_groups([(rows, builder)], max_tokens)
    return kept, report


def fit_groups(
    groups: Sequence[tuple[Rows, BatchBuilder]], max_tokens: int | None
) -> tuple[list[Rows], Fit]:
    """As `fit`, for groups of rows that are shown in views of their own; one report over all.

    UsageError where no row of any group fits.
    """
    limits = [builder.family.context for _, builder in groups]
    limit = min(limits if max_tokens is None else [*limits, max_tokens])
    too_long: list[str] = []
    placeholders: list[str] = []
    alike: list[str] = []
    found = []
    for rows, builder in groups:
        ruler = _Ruler(builder)
        kept: list[int] = []
        for number in range(len(rows)):
            row = rows[number]
            if builder.family.placeholder in row.prompt:
                placeholders.append(row.pair_id)
            elif not ruler.fits(row, limit):
                too_long.append(row.pair_id)
            elif ruler.sees_both and _look_alike(row, builder.family):
                alike.append(row.pair_id)
            else:
                kept.append(number)
        found.append(rows.select(kept))
    total = sum(len(rows) for rows, _ in groups)
    report = Fit(limit, total, tuple(too_long), tuple(placeholders), tuple(alike))
    if not report.kept and total:
        advice = "raise max_tokens, shrink the images, or take a model that sees their edges"
        raise UsageError(f"no row fits the model: {report}; {advice}")
    return found, report


@dataclass
class _Ruler:
    builder: BatchBuilder
    _tokens: dict[tuple[Size, ...], int] = field(default_factory=dict)
    _frame: int | None = None

    @property
    def sees_both(self) -> bool:
        """Whether the views show both images, with edges cut away."""
        roles = {view.images for view in self.builder.views}
        both = Images.BOTH in roles or (
            Images.REJECTED in roles and bool(roles & {Images.CHOSEN, Images.CROP, Images.NOISED})
        )
        return both and self.builder.family.cuts_edges

    def fits(self, row: Row, limit: int) -> bool:
        roles = {view.images for view in self.builder.views}
        chosen = rejected = both = 0
        if roles - {Images.NONE, Images.REJECTED}:
            chosen = self.tokens(_size(row.chosen_image.bytes))
        if roles & {Images.REJECTED, Images.BOTH}:
            rejected = self.tokens(_size(row.rejected_image.bytes))
        if Images.BOTH in roles:
            both = self.tokens(_size(row.chosen_image.bytes), _size(row.rejected_image.bytes))
        if self._at_most(row) + max(chosen, rejected, both) <= limit:
            return True
        return max(self.builder.lengths(row, (chosen, rejected), both)) <= limit

    def tokens(self, *sizes: Size) -> int:
        """Tokens of the images of one prompt, by (width, height), from blank ones."""
        if sizes not in self._tokens:
            blank = [PIL.Image.new("RGB", size) for size in sizes]
            self._tokens[sizes] = sum(p.num_tokens for p in self.builder.family.pixels(blank))
        return self._tokens[sizes]

    def _at_most(self, row: Row) -> int:
        """More text tokens than any view can have: no tokenizer makes two of one byte."""
        if self._frame is None:
            family = self.builder.family
            frame = family.prompt_text(max(ANCHORS, key=len), 2)
            self._frame = len(frame.encode()) + _SPECIAL_TOKENS
        answers = [getattr(row, str(view.answer)) or "" for view in self.builder.views]
        return self._frame + _bytes([row.prompt]) + max(_bytes([a]) for a in answers)


def _look_alike(row: Row, family: Family) -> bool:
    """Whether the row's images are the same to the last number once they are processed."""
    try:
        chosen, rejected = decode(row.chosen_image.bytes), decode(row.rejected_image.bytes)
    except ValueError as error:
        raise UsageError(f"pair {row.pair_id} cannot be used: {error}") from error
    # Nearly all rows differ in the middle, which no processor cuts; processing takes 20 ms a row.
    if chosen.size != rejected.size or _middle(chosen) != _middle(rejected):
        return False
    one, other = (pixels.tensors["pixel_values"] for pixels in family.pixels([chosen, rejected]))
    return torch.equal(one, other)


def _middle(image: PIL.Image.Image) -> bytes:
    """The pixels of the square in the middle that is half as wide as the shorter side."""
    half = min(image.size) / 2
    left, top = ((length - half) / 2 for length in image.size)
    return image.crop((int(left), int(top), int(left + half), int(top + half))).tobytes()


def _size(data: bytes) -> Size:
    with PIL.Image.open(io.BytesIO(data)) as image:
        return image.size


def _bytes(texts: Sequence[str]) -> int:
    # NFC may lengthen a text in bytes, by at most three times.
    return 3 * sum(len(text.encode()) for text in texts)
