"""The dataset card: `README.md` of a run, so that `load_dataset(RUN)` decodes the images."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import yaml

from pipeline.run_folder.audit import Audit
from pipeline.run_folder.info import RunInfo
from schemas.shards import DATA_SCHEMA, hf_features

_SIZES = [(10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M")]


def card_text(info: RunInfo, audit: Audit, licenses: list[str]) -> str:
    """The card: Markdown with a YAML header; `licenses` are the distinct ones of the rows."""
    size = next((name for most, name in _SIZES if audit.num_pairs < most), "1M<n<10M")
    header = {
        "license": "other",
        "task_categories": ["image-text-to-text", "visual-question-answering"],
        "tags": ["preference", "dpo", "hard-negatives", "synthetic", "multimodal"],
        "size_categories": [size],
        "configs": [
            {
                "config_name": "default",
                "data_files": [{"split": "train", "path": "data/train-*"}],
            }
        ],
        "dataset_info": {"features": _card_features(DATA_SCHEMA)},
    }
    identity = info.identity
    by_recipe = "\n".join(f"| {name} | {audit.pairs[name]:,} |" for name in info.recipes)
    drops: dict[str, int] = {}
    for (_, reason), count in audit.reasons.items():
        drops[reason] = drops.get(reason, 0) + count
    by_reason = "\n".join(
        f"| {reason} | {count:,} |" for reason, count in sorted(drops.items(), key=lambda x: -x[1])
    )
    return f"""---
{yaml.safe_dump(header, sort_keys=False, allow_unicode=True).strip()}
---

# Contrast pairs: {identity.recipe}

{audit.num_pairs:,} pairs from {info.num_seeds:,} rows. `chosen` is true of `chosen_image`;
`counterfactual` is true of `rejected_image`, which differs from the original in the one way that
`contrast` names; `rejected` is the ordinary wrong answer. Spans are character offsets of the words
in which `chosen` and `counterfactual` differ. `report.html` shows samples with their scores.

| recipe | pairs |
|---|---|
{by_recipe}

| reason of a drop | records |
|---|---|
{by_reason or "| none | 0 |"}

Recipe digest `{identity.recipe_digest}`, seed {identity.seed}, input digest
`{identity.input_digest}`, schema version {identity.schema_version}. How each row was made stands in
its `provenance`; every dropped row, with its reason and scores, in `parts/`.

Licences of the images, as the input states them (column `license`):
{", ".join(licenses) or "none"}.
"""


def _card_features(schema: pa.Schema) -> list[dict[str, Any]]:
    """The features in the form that `dataset_info` in a card uses."""
    return [{"name": name, **_form(value)} for name, value in hf_features(schema).items()]


def _form(feature: dict[str, Any]) -> dict[str, Any]:
    match feature.get("_type"):
        case "Image":
            return {"dtype": "image"}
        case "Value":
            return {"dtype": feature["dtype"]}
        case "List":
            inner = _form(feature["feature"])
            # A list of plain values names the type alone; one of structs names the fields.
            return {"list": inner.get("dtype") or inner.get("struct") or inner}
        case _:
            return {"struct": [{"name": k, **_form(v)} for k, v in feature.items()]}
