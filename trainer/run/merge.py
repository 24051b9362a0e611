"""A trained run as a plain checkpoint that `from_pretrained` loads without peft."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from trainer.errors import CheckpointFileError, UsageError
from trainer.model.weights import WEIGHTS
from trainer.run.checkpoints import POSITION, Checkpoints, damage, whole_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

FINAL = "final"
_WEIGHT_FILES = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf", "*.h5", "*.msgpack")
_WRITTEN_ANEW = ("config.json", "generation_config.json", "*.index.json", "README.md", ".*")
_COMPANIONS = ("*.json", "*.txt", "*.model", "*.jinja")


def trained_weights(run: Path) -> Path:
    """The folder with the adapter or model of a run, a checkpoint, or that folder itself.

    Of a run that is not finished, its newest checkpoint that is whole. UsageError where there is
    nothing, CheckpointFileError for a damaged checkpoint.
    """
    final = run / FINAL / WEIGHTS
    newest = None
    if not final.exists():
        newest = Checkpoints(run / "checkpoints").newest_whole(set_aside=False)
        if (run / POSITION).exists() and (what := damage(run)) is not None:
            raise CheckpointFileError(f"checkpoint {run} is damaged ({what}); take another")
    for folder in (final, newest and newest / WEIGHTS, run / WEIGHTS, run):
        if folder is not None and any(
            (folder / name).is_file() for name in ("adapter_config.json", "config.json")
        ):
            return folder
    raise UsageError(
        f"{run} holds no trained weights; give a folder that `python -m trainer train` wrote"
    )


def base_of(weights: Path) -> tuple[str, str | None] | None:
    """Model and revision that an adapter was trained on; None for a whole model."""
    path = weights / "adapter_config.json"
    if not path.is_file():
        return None
    config = json.loads(path.read_text("utf-8"))
    return config["base_model_name_or_path"], config.get("revision")


def merge(
    run: Path,
    out: Path,
    *,
    model: str | None = None,
    dtype: Literal["bfloat16", "float16", "float32"] | None = None,
) -> Path:
    """Write the run's model to a new folder `out`, with tokenizer and processor; returns it.

    The sum of weights and adapter is taken in float32 and rounded once, to `dtype` or to what the
    base is stored in. `model` overrides where the base is. It takes the CPU's memory: 4 bytes for
    every parameter.
    """
    from transformers import AutoModelForImageTextToText  # noqa: PLC0415  6 s

    weights = trained_weights(run)
    adapted = base_of(weights)
    base, revision = adapted or (str(weights), None)
    if model is not None:
        base, revision = model, None
    stored = _load(AutoModelForImageTextToText, base, revision)
    if adapted is not None:
        from peft import PeftModel  # noqa: PLC0415  2 s, for adapters alone

        stored.model = PeftModel.from_pretrained(stored.model, weights).merge_and_unload(
            safe_merge=True
        )
    target = getattr(torch, dtype) if dtype else stored.dtype
    log.info("merging %s into %s as %s", weights, base, target)
    with whole_folder(out) as folder:
        stored.model.to(target).save_pretrained(folder)
        copy_companions(base, revision, folder)
    return out


class _Stored:
    """A model in float32, and what it was stored in."""

    def __init__(self, model: PreTrainedModel, dtype: torch.dtype) -> None:
        self.model = model
        self.dtype = dtype


def _load(auto: Any, base: str, revision: str | None) -> _Stored:
    try:
        model = auto.from_pretrained(base, revision=revision, dtype=torch.float32)
        stored = model.config.__class__.from_pretrained(base, revision=revision)
    except OSError as error:
        message = " ".join(str(error).split())
        raise UsageError(
            f"the base model {base} cannot be loaded ({message:.200}); give it with --model"
        ) from error
    return _Stored(model, getattr(stored, "dtype", None) or torch.float32)


def copy_companions(model: str, revision: str | None, folder: Path) -> None:
    """Copy tokenizer, processor and chat template, as they are, beside saved weights.

    Copied, not loaded and saved: the classes that read them here need not be those that older
    readers know, and a processor writes its own class down.
    """
    source = Path(model)
    if not source.is_dir():
        from huggingface_hub import snapshot_download  # noqa: PLC0415  for models of the hub

        source = Path(snapshot_download(model, revision=revision, allow_patterns=[*_COMPANIONS]))
    for path in sorted(source.iterdir()):
        skipped = any(path.match(pattern) for pattern in (*_WEIGHT_FILES, *_WRITTEN_ANEW))
        if path.is_file() and not skipped:
            shutil.copyfile(path, folder / path.name)
