"""What is asked of a model beyond its forward: encoded images and rotary positions."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from trainer.families.family import PromptTokens

IMAGES_AT_ONCE = 8
"""Images of one call of a frozen tower: transformers keeps the states of all its layers."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """Images as the language model takes them."""

    features: tuple[Tensor, ...]
    """For each image [tokens, hidden], what stands at its placeholders."""
    deep: tuple[tuple[Tensor, ...], ...] = ()
    """The same for every deepstack layer (Qwen3-VL), added to the states of the first layers."""

    def of(self, images: Sequence[int]) -> dict[str, Any] | None:
        """Images in this order, in the form that the models' forwards take; None for none."""
        if not images:
            return None
        return {
            "image": SimpleNamespace(
                pooler_output=tuple(self.features[i] for i in images),
                deepstack_features=[tuple(layer[i] for i in images) for layer in self.deep],
            )
        }


def encoder_learns(inner: Any) -> bool:
    """Whether anything between pixels and the language model learns."""
    return any(
        parameter.requires_grad
        for name, parameter in inner.named_parameters()
        if not name.startswith("language_model.")
    )


def calls(alone: Sequence[bool], *, at_once: int) -> list[list[int]]:
    """Which images go into the same call: those alone in their prompt and the others apart."""
    found = []
    for kind in (True, False):
        numbers = [i for i, is_alone in enumerate(alone) if is_alone is kind]
        found += [numbers[i : i + at_once] for i in range(0, len(numbers), at_once)]
    return found


def encode(
    inner: Any,
    pixels: dict[str, Tensor],
    counts: Sequence[int],
    alone: Sequence[bool],
    groups: Sequence[Sequence[int]],
) -> Encoded:
    """Images through tower and projector, each once.

    There is no gradient unless something there learns. `counts` are the entries of `pixel_values`
    that each image has. Every image must be in one of `groups`; what is in two is encoded again.
    """
    if not counts:
        return Encoded(())
    values = torch.split(pixels["pixel_values"], list(counts))
    found: dict[int, Tensor] = {}
    deep: dict[int, list[Tensor]] = {}
    with nullcontext() if encoder_learns(inner) else torch.no_grad():
        for group in groups:
            inputs = {k: x[list(group)] for k, x in pixels.items() if k != "pixel_values"}
            inputs["pixel_values"] = torch.cat([values[i] for i in group])
            if "image_sizes" in inputs and not alone[group[0]]:
                # Images of one prompt are not cut into tiles; a number above 1 says so.
                inputs["batch_num_images"] = torch.tensor([max(2, len(group))])
            output = inner.get_image_features(**inputs, return_dict=True)
            layers = getattr(output, "deepstack_features", None) or []
            for place, number in enumerate(group):
                found[number] = output.pooler_output[place]
                deep[number] = [layer[place] for layer in layers]
    numbers = range(len(counts))
    num_layers = len(deep[0]) if deep else 0
    return Encoded(
        tuple(found[i] for i in numbers),
        tuple(tuple(deep[i][layer] for i in numbers) for layer in range(num_layers)),
    )


def rotary_positions(inner: Any, prompt: PromptTokens, grids: Tensor | None) -> Tensor | None:
    """Positions of a prompt's tokens in time, height and width, [3, P], as the model counts them.

    None for models that count tokens alone. `grids` are those of the prompt's images, [n, 3].
    """
    if not hasattr(inner, "get_rope_index"):
        return None
    kinds = torch.from_numpy((prompt.image >= 0).astype("int64"))[None]
    positions, _ = inner.get_rope_index(
        input_ids=torch.from_numpy(prompt.ids)[None],
        mm_token_type_ids=kinds,
        image_grid_thw=grids,
        attention_mask=torch.ones_like(kinds),
    )
    return torch.as_tensor(positions[:, 0])
