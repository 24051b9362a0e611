"""The straightforward way to a row's log-probs, to hold the trainer's against.

One view at a time through the processor's own call and the model's own forward, with all logits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from trainer.data.batches import decode
from trainer.data.draws import Draws
from trainer.data.rows import Row
from trainer.families import ANCHORS, Family
from trainer.losses.views import Images, Quantity, Tokens, View


def plain_log_prob(model: Any, family: Family, row: Row, view: View, draws: Draws) -> Tensor:
    """One cell, a scalar."""
    log_probs, answer = plain_distributions(model, family, row, view, draws)
    found = log_probs[torch.arange(len(answer)), torch.tensor(answer)]
    counted = plain_counted(family, row, view, answer)
    total = (found * counted).sum()
    return total / max(1.0, float(counted.sum())) if view.quantity is Quantity.MEAN else total


def plain_distributions(
    model: Any, family: Family, row: Row, view: View, draws: Draws
) -> tuple[Tensor, list[int]]:
    """Log-probs of the whole vocabulary before each answer token [A, V], and those tokens."""
    chosen, rejected = decode(row.chosen_image.bytes), decode(row.rejected_image.bytes)
    question = row.prompt
    match view.images:
        case Images.NONE:
            images = []
        case Images.CHOSEN | Images.NOISED:
            images = [chosen]
        case Images.REJECTED:
            images = [rejected]
        case Images.CROP:
            images = [chosen.crop(draws.crop).resize(chosen.size, resample=3)]
        case Images.BOTH:
            images = [chosen, rejected] if draws.chosen_first else [rejected, chosen]
            named = chosen if view.anchor is Images.CHOSEN else rejected
            question += " " + ANCHORS[images.index(named)]
    inputs, answer = plain_inputs(family, question, images, getattr(row, str(view.answer)))
    if view.images is Images.NOISED:
        inputs["pixel_values"] = plain_noise(family, inputs["pixel_values"], draws.noise)
    logits = model(**inputs).logits[0, -len(answer) - 1 : -1]
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1), answer


def plain_counted(family: Family, row: Row, view: View, answer: list[int]) -> Tensor:
    """Of each answer token, whether the view counts it."""
    text = getattr(row, str(view.answer))
    if view.tokens is Tokens.SPANS:
        spans = getattr(row, f"{view.answer}_spans")
        return torch.tensor([float(x) for x in plain_mask(family, text, spans)] + [0.0])
    counted = torch.ones(len(answer))
    if view.against is None:
        return counted
    said = family.answer_lead + getattr(row, str(view.against))
    other = family.tokenizer(said, add_special_tokens=False)
    other = other["input_ids"] + [family.end_of_turn]
    if view.tokens is Tokens.FROM_FIRST_DIFFERENCE:
        place = 0
        while place < min(len(answer), len(other)) and answer[place] == other[place]:
            counted[place] = 0
            place += 1
        return counted
    runs = {tuple(other[i : i + 3]) for i in range(len(other))}
    for i in range(len(answer) - 2):  # enough for answers whose shared runs come in one order
        if tuple(answer[i : i + 3]) in runs:
            counted[i : i + 3] = 0
    shared = [a == b for a, b in zip(answer, other, strict=False)]
    counted[: [*shared, False].index(False)] = 0
    return counted


def plain_noise(family: Family, values: Tensor, seed: int) -> Tensor:
    """CHiP's noise, written out: a step of a diffusion, 500 of 1000 (`add_diffusion_noise`)."""
    betas = torch.sigmoid(torch.linspace(-6, 6, 1000, dtype=torch.float64)) * (5e-3 - 1e-5) + 1e-5
    kept = torch.cumprod(1 - betas, 0)[500]
    frames = getattr(family.processor.image_processor, "temporal_patch_size", 1)
    random = np.random.Generator(np.random.PCG64(seed))
    noise = torch.from_numpy(random.standard_normal(values.numel() // frames, np.float32))
    # Frames stand inside the numbers of a patch: colour, frame, rows, columns.
    patches = len(values) if frames > 1 else 1
    noise = noise.view(patches, 3 if frames > 1 else 1, 1, -1).expand(-1, -1, frames, -1)
    return (kept.sqrt() * values + (1 - kept).sqrt() * noise.reshape(values.shape)).float()


def plain_inputs(
    family: Family, question: str, images: list[Any], text: str
) -> tuple[dict[str, Tensor], list[int]]:
    """The model's inputs for prompt and answer, and the answer's ids with end-of-turn."""
    prompt = family.processor(
        text=[family.prompt_text(question, len(images))],
        images=[images] if images else None,
        return_tensors="pt",
    )
    said = family.answer_lead + text
    answer = family.tokenizer(said, add_special_tokens=False)["input_ids"] + [family.end_of_turn]
    tail = torch.tensor([answer])
    more = {"input_ids": tail, "attention_mask": torch.ones_like(tail)}
    if "mm_token_type_ids" in prompt:
        more["mm_token_type_ids"] = torch.zeros_like(tail)
    inputs = {k: torch.cat([v, more[k]], 1) if k in more else v for k, v in prompt.items()}
    return inputs, answer


def plain_mask(family: Family, text: str, spans: Any) -> list[bool]:
    """Of each token of the text, whether one of its characters is in a span."""
    lead = family.answer_lead
    inside = {len(lead) + i for start, end in spans for i in range(start, end)}
    encoded = family.tokenizer(lead + text, add_special_tokens=False, return_offsets_mapping=True)
    return [any(i in inside for i in range(a, b)) for a, b in encoded["offset_mapping"]]
