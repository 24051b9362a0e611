"""Configurations for VLMEvalKit and lmms-eval, neither of which needs to be installed here.

VLMEvalKit: `run.py --config FILE`, a JSON of models and data by class name (its ConfigSystem.md).
lmms-eval: `--config FILE`, a YAML list of its own arguments. Both load a plain checkpoint, so an
adapter is merged first (`python -m trainer merge`).
"""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import yaml

from trainer.errors import UsageError
from trainer.families import Evaluators, family_of, load_config
from trainer.run.checkpoints import whole_folder

VLMEVALKIT_DATA = {
    "HallusionBench": "ImageYORNDataset",
    "AMBER": "ImageYORNDataset",
    "POPE": "ImageYORNDataset",
    "CRPE_EXIST": "CRPE",
    "CRPE_RELATION": "CRPE",
    "R-Bench-Dis": "ImageMCQDataset",
    "R-Bench-Ref": "ImageMCQDataset",
    "BLINK": "ImageMCQDataset",
}
"""Benchmark and its class: IC-VCO's set (its configs/eval) and POPE."""

LMMS_EVAL_TASKS = ("pope", "amber_g", "hallusion_bench_image", "crpe_relation", "mmvp")
"""Tasks of lmms-eval, which has other ones."""


def export(model: Path, out: Path, name: str, *, max_new_tokens: int = 512) -> Path:
    """Write `lmms_eval.yaml`, `vlmevalkit.json` and `commands.sh` to a new folder; returns it.

    `model` is a plain checkpoint, `name` what results are filed under. There is no
    `vlmevalkit.json` for a family that VLMEvalKit cannot load. UsageError for an adapter and for a
    checkpoint of no known family.
    """
    if (model / "adapter_config.json").is_file():
        raise UsageError(
            f"{model} is an adapter; make a plain checkpoint of it with `python -m trainer merge`"
        )
    if not (model / "config.json").is_file():
        raise UsageError(f"{model} is not a model: config.json is missing")
    evaluators, path = family_of(load_config(str(model))).evaluators, model.resolve()
    with whole_folder(out) as folder:
        seen, word = path, evaluators.path_word
        if word not in str(path).lower():
            (folder / word).symlink_to(path)
            seen = out.resolve() / word
        if evaluators.vlmevalkit is not None:
            _write_vlmevalkit(folder, name, evaluators, seen, max_new_tokens)
        _write_lmms_eval(folder, name, evaluators, path)
        _write_commands(folder, out.resolve())
    return out


def _write_vlmevalkit(
    folder: Path, name: str, evaluators: Evaluators, model: Path, max_new_tokens: int
) -> None:
    settings = {
        "class": evaluators.vlmevalkit,
        "model_path": str(model),
        **evaluators.vlmevalkit_settings,
        "max_new_tokens": max_new_tokens,
    }
    data = {key: {"class": kind, "dataset": key} for key, kind in VLMEVALKIT_DATA.items()}
    text = json.dumps({"model": {name: settings}, "data": data}, indent=2)
    (folder / "vlmevalkit.json").write_text(text + "\n", "utf-8")


def _write_lmms_eval(folder: Path, name: str, evaluators: Evaluators, model: Path) -> None:
    arguments = [
        {
            "model": evaluators.lmms_eval,
            "model_args": f"pretrained={model}",
            "tasks": ",".join(LMMS_EVAL_TASKS),
            "batch_size": "1",
            "log_samples": True,
            "log_samples_suffix": name,
            "output_path": f"./results/{name}",
        }
    ]
    (folder / "lmms_eval.yaml").write_text(yaml.safe_dump(arguments, sort_keys=False), "utf-8")


def _write_commands(folder: Path, final: Path) -> None:
    lines = ["#!/bin/sh"]
    if (folder / "vlmevalkit.json").is_file():
        lines += [
            "# In VLMEvalKit's checkout; some benchmarks want a judge (its docs, `--judge`):",
            f"python run.py --config {shlex.quote(str(final / 'vlmevalkit.json'))}",
        ]
    lines += [
        "# Where lmms-eval is installed:",
        f"python -m lmms_eval --config {shlex.quote(str(final / 'lmms_eval.yaml'))}",
    ]
    (folder / "commands.sh").write_text("\n".join(lines) + "\n", "utf-8")
