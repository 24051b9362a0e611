"""Ready configurations for VLMEvalKit and lmms-eval. Neither is needed here, nor copied.

VLMEvalKit: `run.py --config FILE`, a JSON of models and data by class name (its ConfigSystem.md).
lmms-eval: `--config FILE`, a YAML list of its own arguments. Both load a plain checkpoint, so an
adapter is merged first (`python -m trainer merge`).
"""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from trainer.errors import UsageError
from trainer.run.checkpoints import whole_folder


@dataclass(frozen=True, slots=True)
class Readers:
    """What the two tools call a model type."""

    vlmevalkit: str
    """Class in `vlmeval/vlm/__init__.py`."""
    lmms_eval: str
    """Name for `--model`."""


READERS = {
    "llava": Readers("LLaVA_Next", "llava_hf"),
    "llava_next": Readers("LLaVA_Next", "llava_hf"),
    "llava_onevision": Readers("LLaVA_OneVision_HF", "llava_hf"),
    "qwen2_5_vl": Readers("Qwen2VLChat", "qwen2_5_vl"),
    "qwen3_vl": Readers("Qwen3VLChat", "qwen3_vl"),
}
"""By `model_type` of the checkpoint's configuration."""

_LINK = "interleave"
"""VLMEvalKit's LLaVA_Next takes transformers' plain LLaVA class only for paths with this word."""

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
    """Write `vlmevalkit.json`, `lmms_eval.yaml` and `commands.sh` to a new folder; returns it.

    `model` is a plain checkpoint, `name` what results are filed under. UsageError for an adapter
    and for model types that the tools do not read.
    """
    if (model / "adapter_config.json").is_file():
        raise UsageError(
            f"{model} is an adapter; make a plain checkpoint of it with `python -m trainer merge`"
        )
    try:
        model_type = json.loads((model / "config.json").read_text("utf-8"))["model_type"]
    except (OSError, ValueError, KeyError):
        raise UsageError(
            f"{model} holds no model: there is no config.json with a model_type"
        ) from None
    if model_type not in READERS:
        raise UsageError(f"model type {model_type!r} is none of {', '.join(READERS)}")
    readers, path = READERS[model_type], model.resolve()
    with whole_folder(out) as folder:
        seen = path
        if model_type == "llava" and _LINK not in str(path).lower():
            (folder / _LINK).symlink_to(path)
            seen = out.resolve() / _LINK
        _write_vlmevalkit(folder, name, readers, seen, max_new_tokens)
        _write_lmms_eval(folder, name, readers, path)
        _write_commands(folder, out.resolve())
    return out


def _write_vlmevalkit(
    folder: Path, name: str, readers: Readers, model: Path, max_new_tokens: int
) -> None:
    settings: dict[str, Any] = {"class": readers.vlmevalkit, "model_path": str(model)}
    if readers.vlmevalkit.startswith("LLaVA"):
        settings |= {"do_sample": False, "temperature": 0, "top_p": None, "num_beams": 1}
    settings["max_new_tokens"] = max_new_tokens
    data = {key: {"class": kind, "dataset": key} for key, kind in VLMEVALKIT_DATA.items()}
    text = json.dumps({"model": {name: settings}, "data": data}, indent=2)
    (folder / "vlmevalkit.json").write_text(text + "\n", "utf-8")


def _write_lmms_eval(folder: Path, name: str, readers: Readers, model: Path) -> None:
    arguments = [
        {
            "model": readers.lmms_eval,
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
    lines = [
        "#!/bin/sh",
        "# In VLMEvalKit's checkout; some benchmarks want a judge (its docs, `--judge`):",
        f"python run.py --config {shlex.quote(str(final / 'vlmevalkit.json'))}",
        "# Where lmms-eval is installed:",
        f"python -m lmms_eval --config {shlex.quote(str(final / 'lmms_eval.yaml'))}",
    ]
    (folder / "commands.sh").write_text("\n".join(lines) + "\n", "utf-8")
