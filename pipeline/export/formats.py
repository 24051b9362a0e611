"""The export formats: their tables, columns and further files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from pipeline.export.projections import (
    Row,
    Wanted,
    ic_vco,
    ic_vco_sft,
    llamafactory,
    llava,
    ms_swift,
    mvc,
    symmpo,
    trl,
)
from schemas.records import Pair
from schemas.shards import IMAGE_TYPE

Projection = Callable[[Pair, Wanted], Sequence[Row]]


@dataclass(frozen=True)
class Table:
    """One table of a format."""

    folder: str
    """Where its Parquet files go, or the name of its JSON file; "{split}" becomes the split."""
    rows: Projection
    """Rows of a pair; raises Unfit."""
    schema: pa.Schema | None
    """Columns of the Parquet files, images embedded; None for JSON with images as files."""


@dataclass(frozen=True)
class Format:
    """An export format."""

    name: str
    """As `--format` takes it."""
    about: str
    """One line of help."""
    tables: tuple[Table, ...]
    """Its tables, all from the same pairs."""
    options: frozenset[str] = frozenset()
    """Which of "negative" and "both_sides" (`Wanted`) change its rows."""
    files: Callable[[Sequence[str]], Mapping[str, str]] = lambda _: {}
    """Further text files by name, given the splits that have rows."""


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
    one.name: one
    for one in (
        Format(
            "trl",
            "TRL's DPOTrainer: one image a row, the answers differ",
            (
                Table(
                    "data",
                    trl,
                    _schema(
                        images=_IMAGES,
                        prompt=_MESSAGES,
                        chosen=_MESSAGES,
                        rejected=_MESSAGES,
                        pair_id=_TEXT,
                    ),
                ),
            ),
            options=frozenset({"negative", "both_sides"}),
        ),
        Format(
            "ms-swift",
            "ms-swift: one answer, the images differ (`rejected_images`)",
            (
                Table(
                    "data",
                    ms_swift,
                    _schema(messages=_MESSAGES, images=_IMAGES, rejected_images=_IMAGES),
                ),
            ),
            options=frozenset({"both_sides"}),
        ),
        Format(
            "llamafactory",
            "LLaMA-Factory: sharegpt ranking rows and their dataset_info.json",
            (
                Table(
                    "{split}",
                    llamafactory,
                    _schema(
                        conversations=pa.list_(_TURN), chosen=_TURN, rejected=_TURN, images=_IMAGES
                    ),
                ),
            ),
            files=_llamafactory_files,
            options=frozenset({"negative", "both_sides"}),
        ),
        Format(
            "ic-vco",
            "IC-VCO's trainer: both images a row, spans; and its SFT rows",
            (
                Table(
                    "preference",
                    ic_vco,
                    _schema(
                        prompt=_TEXT,
                        chosen=_TEXT,
                        rejected=_TEXT,
                        images=_IMAGES,
                        chosen_response_spans=_SPANS,
                        rejected_response_spans=_SPANS,
                    ),
                ),
                Table("sft", ic_vco_sft, _schema(prompt=_TEXT, completion=_TEXT, images=_IMAGES)),
            ),
            files=_ic_vco_files,
        ),
        Format(
            "mvc",
            "S-VCO's trainer: a JSON list as mvc.json, images as files",
            (Table("mvc_{split}.json", mvc, None),),
        ),
        Format(
            "symmpo",
            "SymMPO's trainer: both images and four answers a row",
            (
                Table(
                    "data",
                    symmpo,
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
            options=frozenset({"negative"}),
        ),
        Format(
            "llava",
            "LLaVA's supervised JSON: one answer a row, images as files",
            (Table("llava_{split}.json", llava, None),),
            options=frozenset({"both_sides"}),
        ),
    )
}
"""All formats, by name."""
