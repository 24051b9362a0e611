"""What each trainer wants a row to look like: one function a table, all of them pure.

A projection gives one row, two (the pair seen from both images), or the reason why a pair cannot be
a row. Where a form has one image a row, the answer that is wrong of it is the pair's `rejected` or
its `counterfactual`; `Wanted.negative` says which.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa

from schemas.records import Image, Pair, Span
from schemas.shards import IMAGE_TYPE

Row = dict[str, Any]
Negative = Literal["auto", "rejected", "counterfactual"]


@dataclass(frozen=True)
class Wanted:
    """What a person may choose about the rows."""

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
    """A pair that cannot be a row of the form, and why; the text is what is counted."""


Projection = Callable[[Pair, Wanted], Sequence[Row]]


@dataclass(frozen=True)
class Table:
    """One table of a form."""

    folder: str
    """Where its Parquet files go, or the name of its JSON file; "{split}" becomes the split."""
    rows: Projection
    """Rows of a pair; raises Unfit."""
    schema: pa.Schema | None
    """Columns of the Parquet files, images embedded; None for JSON with images as files."""


@dataclass(frozen=True)
class Format:
    """A form of export."""

    name: str
    """As `--format` takes it."""
    about: str
    """One line for a person."""
    tables: tuple[Table, ...]
    """Its tables, all from the same pairs."""
    files: Callable[[Sequence[str]], Mapping[str, str]] = lambda _: {}
    """Further text files by name, given the splits."""


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


def _stored(image: Image) -> Row:
    return {"bytes": image.bytes, "path": image.path}


def _said(role: str, text: str) -> list[Row]:
    return [{"role": role, "content": text}]


def _trl(pair: Pair, wanted: Wanted) -> list[Row]:
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


def _llamafactory(pair: Pair, wanted: Wanted) -> list[Row]:
    return [
        {
            "conversations": [{"from": "human", "value": f"<image>{pair.prompt}"}],
            "chosen": {"from": "gpt", "value": right},
            "rejected": {"from": "gpt", "value": wrong},
            "images": [_stored(image)],
        }
        for image, right, wrong in _sides(pair, wanted)
    ]


def _llamafactory_files(splits: Sequence[str]) -> dict[str, str]:
    entry = {
        "ranking": True,
        "formatting": "sharegpt",
        "columns": {
            "messages": "conversations",
            "chosen": "chosen",
            "rejected": "rejected",
            "images": "images",
        },
    }
    info = {
        "nearmiss" if split == "train" else f"nearmiss_{split}": {"file_name": split, **entry}
        for split in splits
    }
    return {"dataset_info.json": json.dumps(info, indent=2) + "\n"}


def _ms_swift(pair: Pair, wanted: Wanted) -> list[Row]:
    """The same answer under the wrong image; with both sides, also the counterfactual."""
    sides = [(pair.chosen_image, pair.chosen, pair.rejected_image)]
    if wanted.both_sides:
        sides.append((pair.rejected_image, _counterfactual(pair), pair.chosen_image))
    return [
        {
            "messages": _said("user", f"<image>{pair.prompt}") + _said("assistant", answer),
            "images": [_stored(image)],
            "rejected_images": [_stored(other)],
        }
        for image, answer, other in sides
    ]


def _ic_vco(pair: Pair, _: Wanted) -> list[Row]:
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


def _ic_vco_sft(pair: Pair, _: Wanted) -> list[Row]:
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


def _mvc(pair: Pair, _: Wanted) -> list[Row]:
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


def _symmpo(pair: Pair, wanted: Wanted) -> list[Row]:
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


def _llava(pair: Pair, wanted: Wanted) -> list[Row]:
    sides = [(pair.chosen_image, pair.chosen, pair.pair_id)]
    if wanted.both_sides:
        sides.append((pair.rejected_image, _counterfactual(pair), f"{pair.pair_id}-near-miss"))
    return [
        {
            "id": name,
            "image": image,
            "conversations": [
                {"from": "human", "value": f"<image>\n{pair.prompt}"},
                {"from": "gpt", "value": answer},
            ],
        }
        for image, answer, name in sides
    ]


def _schema(**columns: pa.DataType) -> pa.Schema:
    return pa.schema(list(columns.items()))


_TEXT = pa.string()
_IMAGES = pa.list_(IMAGE_TYPE)
_SPANS = pa.list_(pa.list_(pa.int64()))
_MESSAGES = pa.list_(pa.struct([("role", _TEXT), ("content", _TEXT)]))
_TURN = pa.struct([("from", _TEXT), ("value", _TEXT)])


def _ic_vco_files(splits: Sequence[str]) -> dict[str, str]:
    configs = "".join(
        f"- config_name: {config}\n  data_files:\n"
        + "".join(f"  - {{split: {split}, path: {config}/{split}-*}}\n" for split in splits)
        for config in ("preference", "sft")
    )
    return {"README.md": f"---\nlicense: other\nconfigs:\n{configs}---\n"}


FORMATS: Mapping[str, Format] = {
    form.name: form
    for form in (
        Format(
            "trl",
            "TRL's DPOTrainer: one image a row, the answers differ",
            (
                Table(
                    "data",
                    _trl,
                    _schema(
                        images=_IMAGES,
                        prompt=_MESSAGES,
                        chosen=_MESSAGES,
                        rejected=_MESSAGES,
                        pair_id=_TEXT,
                    ),
                ),
            ),
        ),
        Format(
            "ms-swift",
            "ms-swift: one answer, the images differ (`rejected_images`)",
            (
                Table(
                    "data",
                    _ms_swift,
                    _schema(messages=_MESSAGES, images=_IMAGES, rejected_images=_IMAGES),
                ),
            ),
        ),
        Format(
            "llamafactory",
            "LLaMA-Factory: sharegpt ranking rows and their dataset_info.json",
            (
                Table(
                    "{split}",
                    _llamafactory,
                    _schema(
                        conversations=pa.list_(_TURN), chosen=_TURN, rejected=_TURN, images=_IMAGES
                    ),
                ),
            ),
            _llamafactory_files,
        ),
        Format(
            "ic-vco",
            "IC-VCO's trainer: both images a row, spans; and its SFT rows",
            (
                Table(
                    "preference",
                    _ic_vco,
                    _schema(
                        prompt=_TEXT,
                        chosen=_TEXT,
                        rejected=_TEXT,
                        images=_IMAGES,
                        chosen_response_spans=_SPANS,
                        rejected_response_spans=_SPANS,
                    ),
                ),
                Table("sft", _ic_vco_sft, _schema(prompt=_TEXT, completion=_TEXT, images=_IMAGES)),
            ),
            _ic_vco_files,
        ),
        Format(
            "mvc",
            "S-VCO's trainer: a JSON list as mvc.json, images as files",
            (Table("mvc_{split}.json", _mvc, None),),
        ),
        Format(
            "symmpo",
            "SymMPO's trainer: both images and four answers a row",
            (
                Table(
                    "data",
                    _symmpo,
                    _schema(
                        question=_TEXT,
                        image_1=IMAGE_TYPE,
                        image_2=IMAGE_TYPE,
                        resp_1_w=_TEXT,
                        resp_1_l=_TEXT,
                        resp_2_w=_TEXT,
                        resp_2_l=_TEXT,
                        origin_dataset=_TEXT,
                        origin_split=_TEXT,
                        idx=_TEXT,
                        image_path_1=_TEXT,
                        image_path_2=_TEXT,
                    ),
                ),
            ),
        ),
        Format(
            "llava",
            "LLaVA's supervised JSON: one answer a row, images as files",
            (Table("llava_{split}.json", _llava, None),),
        ),
    )
}
"""All forms, by name."""
