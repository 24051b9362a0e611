"""Encodes images, each once, in a model's tower; the family knows how to call it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch

from trainer.families.family import Family
from trainer.families.inputs import ImageFeatures, ImageTensors

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PATCHES_AT_ONCE = 8192
"""Patches of one call of a frozen tower, over all tiles: transformers keeps the states of all its
layers, 0.5 GB for these many in SigLIP's 27 layers in bfloat16."""


def calls(patches: Sequence[int], alone: Sequence[bool], *, at_once: int | None) -> list[list[int]]:
    """Which images go into the same call: those alone in their prompt and the others apart.

    A call has at most `at_once` patches, or one image that has more; None for no limit.
    """
    found: list[list[int]] = []
    for kind in (True, False):
        total = 0
        open_calls: list[list[int]] = []
        for number, (count, is_alone) in enumerate(zip(patches, alone, strict=True)):
            if is_alone is not kind:
                continue
            if not open_calls or (at_once is not None and total + count > at_once):
                open_calls.append([])
                total = 0
            open_calls[-1].append(number)
            total += count
        found += open_calls
    return found


def encode(
    family: type[Family],
    model: PreTrainedModel,
    images: Sequence[ImageTensors],
    groups: Sequence[Sequence[int]],
) -> tuple[ImageFeatures, ...]:
    """Images through tower and projector of a model without its head, one call a group.

    Without gradient if tower and projector are frozen. Every image must be in one of `groups`; what
    is in two is encoded again.
    """
    found: dict[int, ImageFeatures] = {}
    with nullcontext() if family.encoder_trains(model) else torch.no_grad():
        for group in groups:
            made = family.encode(model, [images[n] for n in group])
            found.update(zip(group, made, strict=True))
    return tuple(found[number] for number in range(len(images)))
