"""The straightforward way to a row's log-probs, to hold the trainer's against.

One view at a time through the processor's own call and the model's own forward, with all logits.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from trainer.data.batches import Draws, decode
from trainer.data.rows import Row
from trainer.families import ANCHORS, Family
from trainer.losses.views import Answer, Images, View


def plain_log_prob(model: Any, family: Family, row: Row, view: View, draws: Draws) -> Tensor:
    """One cell, a scalar."""
    chosen, rejected = decode(row.chosen_image.bytes), decode(row.rejected_image.bytes)
    question = row.prompt
    match view.images:
        case Images.NONE:
            images = []
        case Images.CHOSEN:
            images = [chosen]
        case Images.REJECTED:
            images = [rejected]
        case Images.CROP:
            images = [chosen.crop(draws.crop).resize(chosen.size, resample=3)]
        case Images.BOTH:
            images = [chosen, rejected] if draws.chosen_first else [rejected, chosen]
            named = chosen if view.anchor is Images.CHOSEN else rejected
            question += " " + ANCHORS[images.index(named)]
    text = getattr(row, str(view.answer))
    spans = row.chosen_spans if view.answer is Answer.CHOSEN else row.counterfactual_spans
    inputs, answer = plain_inputs(family, question, images, text)
    logits = model(**inputs).logits[0, -len(answer) - 1 : -1]
    log_probs = logits.float().log_softmax(-1)
    found = log_probs[torch.arange(len(answer)), torch.tensor(answer)]
    counted = torch.tensor([1.0] * len(answer))
    if view.masked:
        counted = torch.tensor([float(x) for x in plain_mask(family, text, spans)] + [0.0])
    total = (found * counted).sum()
    return total / max(1.0, float(counted.sum())) if view.average else total


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
