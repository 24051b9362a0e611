"""What a row looks like to each trainer: one pure function a table.

A projection gives one row, two (the pair seen from both images), or the reason why a pair cannot be
a row. Where a format has one image a row, its wrong answer is the pair's `rejected` or
its `counterfactual`; `Wanted.negative` says which.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from schemas.records import Image, Pair, Span

Row = dict[str, Any]
Negative = Literal["auto", "rejected", "counterfactual"]

_PLACEHOLDERS = ("<image>", "<video>", "<audio>")
"""What LLaMA-Factory, ms-swift and LLaVA replace by media, anywhere in a row."""


@dataclass(frozen=True)
class Wanted:
    """What the user chose about the rows."""

    negative: Negative = "auto"
    """Which answer stands as the wrong one of the original image: the input's `rejected`, the
    `counterfactual`, or (auto) `rejected` where there is one."""
    both_sides: bool = False
    """Also a row about the near miss: `counterfactual` right, `chosen` wrong."""
    validation: float = 0.0
    """Share of original images whose pairs are held out, in [0, 1)."""
    seed: int = 0
    """Decides, with the image's name alone, which images are held out."""


class Unfit(Exception):  # noqa: N818  # not an error: counted and reported
    """A pair that cannot be a row of the format; pairs are counted by the text."""


def _wrong(pair: Pair, wanted: Wanted) -> str:
    """The answer that is wrong of the original image."""
    first = None if wanted.negative == "counterfactual" else pair.rejected
    answer = first if first is not None or wanted.negative == "rejected" else pair.counterfactual
    if answer is None:
        missing = "rejected" if wanted.negative == "rejected" else "rejected or counterfactual"
        missing = "counterfactual" if wanted.negative == "counterfactual" else missing
        raise Unfit(f"no {missing} answer")
    if answer == pair.chosen:
        raise Unfit("the wrong answer equals the right one")
    return answer


def _counterfactual(pair: Pair) -> str:
    if pair.counterfactual is None:
        raise Unfit("no counterfactual answer")
    return pair.counterfactual


def _sides(pair: Pair, wanted: Wanted) -> list[tuple[Image, str, str]]:
    """(image, right answer, wrong answer) of the rows that show one image."""
    sides = [(pair.chosen_image, pair.chosen, _wrong(pair, wanted))]
    if wanted.both_sides:
        sides.append((pair.rejected_image, _counterfactual(pair), pair.chosen))
    return sides


def _worded(text: str) -> str:
    """The text, for formats that would read a placeholder in it as one more image."""
    for mark in _PLACEHOLDERS:
        if mark in text:
            raise Unfit(f"a literal {mark} in a text")
    return text


def _stored(image: Image) -> Row:
    return {"bytes": image.bytes, "path": image.path}


def _said(role: str, text: str) -> list[Row]:
    return [{"role": role, "content": text}]


def trl(pair: Pair, wanted: Wanted) -> list[Row]:
    """One image, a right and a wrong answer."""
    # Plain strings as content: the trainer puts the image before the text itself, and no column of
    # a union of blocks is filled with nulls.
    return [
        {
            "images": [_stored(image)],
            "prompt": _said("user", pair.prompt),
            "chosen": _said("assistant", right),
            "rejected": _said("assistant", wrong),
            "pair_id": pair.pair_id,
        }
        for image, right, wrong in _sides(pair, wanted)
    ]


def llamafactory(pair: Pair, wanted: Wanted) -> list[Row]:
    """One image, a right and a wrong answer, as ShareGPT's turns."""
    return [
        {
            "conversations": [{"from": "human", "value": f"<image>{_worded(pair.prompt)}"}],
            "chosen": {"from": "gpt", "value": _worded(right)},
            "rejected": {"from": "gpt", "value": _worded(wrong)},
            "images": [_stored(image)],
        }
        for image, right, wrong in _sides(pair, wanted)
    ]


def ms_swift(pair: Pair, wanted: Wanted) -> list[Row]:
    """The same answer under the wrong image; with both sides, also the counterfactual."""
    sides = [(pair.chosen_image, pair.chosen, pair.rejected_image)]
    if wanted.both_sides:
        sides.append((pair.rejected_image, _counterfactual(pair), pair.chosen_image))
    return [
        {
            "messages": [
                *_said("user", f"<image>{_worded(pair.prompt)}"),
                *_said("assistant", _worded(answer)),
            ],
            "images": [_stored(image)],
            "rejected_images": [_stored(other)],
        }
        for image, answer, other in sides
    ]


def ic_vco(pair: Pair, _: Wanted) -> list[Row]:
    """Both images, the answer that is true of each, and where they differ."""
    return [
        {
            "prompt": pair.prompt,
            "chosen": pair.chosen,
            "rejected": _counterfactual(pair),
            # Without paths: the trainer takes the bytes only where there is none.
            "images": [
                {"bytes": image.bytes, "path": None}
                for image in (pair.chosen_image, pair.rejected_image)
            ],
            "chosen_response_spans": _plain(pair.chosen_spans),
            "rejected_response_spans": _plain(pair.counterfactual_spans),
        }
    ]


def ic_vco_sft(pair: Pair, _: Wanted) -> list[Row]:
    """Each image with its answer."""
    sides = ((pair.chosen_image, pair.chosen), (pair.rejected_image, _counterfactual(pair)))
    return [
        {
            "prompt": pair.prompt,
            "completion": answer,
            "images": [{"bytes": image.bytes, "path": None}],
        }
        for image, answer in sides
    ]


def _plain(spans: Sequence[Span]) -> list[list[int]]:
    return [[span.start, span.end] for span in spans]


def mvc(pair: Pair, _: Wanted) -> list[Row]:
    """Both images and the answer that is true of each."""
    return [
        {
            "system_prompt": "",
            "instruction_prompt": pair.prompt,
            "chosen_images": [pair.chosen_image],
            "rejected_images": [pair.rejected_image],
            "chosen_response": pair.chosen,
            "rejected_response": _counterfactual(pair),
        }
    ]


def symmpo(pair: Pair, wanted: Wanted) -> list[Row]:
    """Both images, each with a right and a wrong answer."""
    return [
        {
            "question": pair.prompt,
            "image_1": _stored(pair.chosen_image),
            "image_2": _stored(pair.rejected_image),
            "resp_1_w": pair.chosen,
            "resp_1_l": _wrong(pair, wanted),
            "resp_2_w": _counterfactual(pair),
            "resp_2_l": pair.chosen,
            "origin_dataset": pair.source,
            "origin_split": json.dumps({"recipe": pair.recipe, "kind": str(pair.contrast.kind)}),
            "idx": pair.pair_id,
            "image_path_1": pair.chosen_image.path or f"{pair.seed_id}.jpg",
            "image_path_2": f"{pair.pair_id}.jpg",
        }
    ]


def llava(pair: Pair, wanted: Wanted) -> list[Row]:
    """The original with its answer; with both sides, also the near miss with its own."""
    sides = [(pair.chosen_image, pair.chosen, pair.pair_id)]
    if wanted.both_sides:
        sides.append((pair.rejected_image, _counterfactual(pair), f"{pair.pair_id}-near-miss"))
    return [
        {
            "id": name,
            "image": image,
            "conversations": [
                {"from": "human", "value": f"<image>\n{_worded(pair.prompt)}"},
                {"from": "gpt", "value": _worded(answer)},
            ],
        }
        for image, answer, name in sides
    ]
