"""Pipelines of the diffusers library from a checkpoint, and how they are called."""

from __future__ import annotations

import importlib
import json
import math
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
import transformers
from safetensors import SafetensorError

from stages.backends.diffusion.settings import FewSteps, FirstBlock, StepCache, Weights
from stages.backends.weights.checkpoints import Checkpoint, CheckpointError, locate
from stages.backends.weights.torch_device import free, place
from stages.base import Device
from stages.edit.canvas import Size, size_of
from stages.pixels import Pixels

_UNREADABLE = (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError)
"""What the libraries raise for a checkpoint that is not what it should be."""
_REMEMBERED = 32
"""Texts kept; with an image of a megapixel in it, one takes ten megabytes."""


def open_pipeline(
    name: str,
    checkpoint: Checkpoint,
    device: Device,
    *,
    few_steps: FewSteps | None = None,
    weights: Weights = "full",
    step_cache: StepCache | None = None,
) -> Pipeline:
    """The pipeline of this class, whole and on its device, ready to be called.

    CheckpointError in one line for another pipeline, missing or damaged parts; ValueError for what
    the device cannot do.
    """
    where, dtype = place(device)
    if weights == "fp8":  # before anything is read
        _require_fp8(where)
    for library in (diffusers.utils.logging, transformers.utils.logging):
        library.set_verbosity_error()
        library.disable_progress_bar()
    folder = locate(checkpoint)
    if few_steps is not None:
        locate(few_steps.checkpoint())
    index = _index(folder, name, checkpoint)
    parts = {
        part: _model(folder, part, kind, dtype, checkpoint)
        for part, kind in index.items()
        if isinstance(kind, list) and _is_model(kind)
    }
    try:
        pipe = getattr(diffusers, name).from_pretrained(folder, **parts, local_files_only=True)
    except _UNREADABLE as error:
        raise CheckpointError(
            f"{checkpoint}: {folder} holds no {name}: {_one_line(error)}"
        ) from error
    return prepared(pipe, device, few_steps=few_steps, weights=weights, step_cache=step_cache)


def prepared(
    pipe: Any,
    device: Device,
    *,
    few_steps: FewSteps | None = None,
    weights: Weights = "full",
    step_cache: StepCache | None = None,
) -> Pipeline:
    """A pipeline of the library that is in memory, on its device and with its options.

    Raises as `open_pipeline`, but for what concerns its files.
    """
    where, _ = place(device)
    if weights == "fp8":
        _require_fp8(where)
    pipe.set_progress_bar_config(disable=True)
    if few_steps is not None:
        _distill(pipe, few_steps)
    pipe.to(where)
    pipe.vae.enable_slicing()  # memory for one image, and no image depends on another
    if weights != "full":
        _quantise(pipe.transformer, weights)
    if step_cache is not None:
        pipe.transformer.enable_cache(_cache_settings(step_cache))
    if device.compile:
        pipe.transformer.compile_repeated_blocks(fullgraph=True)
    return Pipeline(pipe)


class Pipeline:
    """An open pipeline of diffusers, and the last texts that it has read."""

    def __init__(self, pipe: Any) -> None:
        """`pipe` is the library's, on its device."""
        self.pipe = pipe
        self._read: OrderedDict[Hashable, Any] = OrderedDict()

    def read(self, key: Hashable, **settings: Any) -> Any:
        """What the pipeline's `encode_prompt` gives for the settings; equal keys are read once.

        Outside of a gradient's reach: with one, the same text gives other last digits.
        """
        if key not in self._read:
            with torch.no_grad():
                self._read[key] = self.pipe.encode_prompt(device=self.pipe.device, **settings)
            if len(self._read) > _REMEMBERED:
                self._read.popitem(last=False)
        self._read.move_to_end(key)
        return self._read[key]

    def images(self, seeds: Sequence[int], **settings: Any) -> list[Pixels]:
        """One uint8 [H, W, 3] image a seed, made with the pipeline's own settings.

        Noise is drawn on the CPU by one generator a row: the same on every device and in every
        batch. ArithmeticError for values that are not finite: they would pass for black.
        """
        drawn = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        made = self.pipe(generator=drawn, output_type="pt", return_dict=True, **settings).images
        if not bool(torch.isfinite(made).all()):
            raise ArithmeticError(
                f"{type(self.pipe).__name__} made an image with values that are not finite in "
                f"{self.pipe.transformer.dtype}; use dtype: bfloat16 in the placement"
            )
        levels = (made.float() * 255).round().clamp(0, 255).to(torch.uint8)
        return [np.ascontiguousarray(one) for one in levels.permute(0, 2, 3, 1).cpu().numpy()]

    def require_guidance(self, guidance: float | None) -> None:
        """ValueError if a model that takes guidance is given none, or the reverse."""
        takes = bool(self.pipe.transformer.config.guidance_embeds)
        if takes != (guidance is not None):
            raise ValueError(
                f"guidance is {guidance}, but this model was {'' if takes else 'not '}distilled to "
                f"take it; {'set a number' if takes else 'set it to null'}"
            )

    def close(self) -> None:
        """Free the device; safe to call twice."""
        if "pipe" not in vars(self):
            return
        device = self.pipe.device
        self._read.clear()
        del self.pipe
        free(device)


def _index(folder: Path, name: str, checkpoint: Checkpoint) -> dict[str, Any]:
    file = folder / "model_index.json"
    if not file.is_file():
        raise CheckpointError(
            f"{checkpoint}: {folder} has no model_index.json; is it a diffusers pipeline?"
        )
    try:
        index: dict[str, Any] = json.loads(file.read_text("utf-8"))
        found = index["_class_name"]
    except (ValueError, KeyError, TypeError):
        raise CheckpointError(f"{checkpoint}: {file} does not describe a pipeline") from None
    if found != name:
        raise CheckpointError(f"{checkpoint} is a {found}; {name} is needed")
    return index


def _is_model(kind: Sequence[str | None]) -> bool:
    """Whether a part ([library, class]) has weights."""
    library, name = kind
    if library is None or name is None:
        return False
    cls = getattr(importlib.import_module(library), name, None)
    return isinstance(cls, type) and issubclass(cls, torch.nn.Module)


def _model(
    folder: Path, part: str, kind: Sequence[str], dtype: torch.dtype, checkpoint: Checkpoint
) -> Any:
    """A part with weights. Those that its files lack the libraries would draw at random."""
    library, name = kind
    cls = getattr(importlib.import_module(library), name)
    named = "torch_dtype" if library == "diffusers" else "dtype"
    try:
        model, loading = cls.from_pretrained(
            folder / part, **{named: dtype}, output_loading_info=True, local_files_only=True
        )
    except _UNREADABLE as error:
        raise CheckpointError(
            f"{checkpoint}: {folder / part} holds no {name}: {_one_line(error)}"
        ) from error
    if missing := sorted(loading["missing_keys"]):
        raise CheckpointError(
            f"{checkpoint}: {folder / part} lacks {len(missing)} of the weights of a {name}, such "
            f"as {missing[0]}"
        )
    return model.eval().requires_grad_(False)  # noqa: FBT003


def _distill(pipe: Any, few_steps: FewSteps) -> None:
    """Merge the LoRA into the transformer and set the schedule that it was distilled at."""
    checkpoint = few_steps.checkpoint()
    folder = locate(checkpoint)
    try:
        pipe.load_lora_weights(
            str(folder), weight_name=few_steps.file, adapter_name="few", local_files_only=True
        )
        pipe.fuse_lora(components=["transformer"], adapter_names=["few"], safe_fusing=True)
    except _UNREADABLE as error:
        raise CheckpointError(
            f"{checkpoint}: {few_steps.file} in {folder} is no LoRA for {type(pipe).__name__}: "
            f"{_one_line(error)}"
        ) from error
    pipe.unload_lora_weights()
    mu = math.log(few_steps.shift)
    pipe.scheduler = diffusers.FlowMatchEulerDiscreteScheduler.from_config(
        pipe.scheduler.config,
        base_shift=mu,
        max_shift=mu,
        shift_terminal=None,
        use_dynamic_shifting=True,
        time_shift_type="exponential",
    )


def _require_fp8(where: torch.device) -> None:
    capability = torch.cuda.get_device_capability(where) if where.type == "cuda" else None
    if capability is None or capability < (8, 9):
        found = "the cpu" if capability is None else f"compute capability {capability}"
        raise ValueError(
            f"weights: fp8 needs a GPU of compute capability 8.9 or later, not {found}; "
            "use int8 or full"
        )


def _quantise(transformer: Any, weights: Weights) -> None:
    try:
        from torchao import quantization
    except ImportError:
        raise ValueError(
            f"weights: {weights} needs torchao, which is not installed; pip install "
            "'nearmiss[quantised]'"
        ) from None
    if weights == "int8":
        how = quantization.Int8DynamicActivationInt8WeightConfig()
    else:
        how = quantization.Float8DynamicActivationFloat8WeightConfig(
            granularity=quantization.PerRow()
        )
    # The blocks alone: what embeds and what comes out is small, and sensitive.
    for block in transformer.modules():
        if type(block).__name__ in transformer._repeated_blocks:  # noqa: SLF001
            quantization.quantize_(block, how)


def _cache_settings(step_cache: StepCache) -> Any:
    if isinstance(step_cache, FirstBlock):
        return diffusers.FirstBlockCacheConfig(threshold=step_cache.threshold)
    return diffusers.TaylorSeerCacheConfig(
        cache_interval=step_cache.interval,
        disable_cache_before_step=step_cache.warm_up,
        max_order=step_cache.order,
    )


def edited_by_size(
    images: Sequence[Pixels],
    seeds: Sequence[Sequence[int]],
    most: int,
    edit: Callable[[list[int], list[int]], list[Pixels]],
) -> list[list[Pixels]]:
    """For each image one result a seed, images of one size together, at most so many a call.

    `edit` takes indices of images, which may come more than once, with a seed each.
    """
    rows = [(i, seed) for i, own in enumerate(seeds) for seed in own]
    by_size: dict[Size, list[int]] = {}
    for k, (i, _) in enumerate(rows):
        by_size.setdefault(size_of(images[i]), []).append(k)
    done: dict[int, Pixels] = {}
    for group in by_size.values():
        for start in range(0, len(group), most):
            bucket = group[start : start + most]
            results = edit([rows[k][0] for k in bucket], [rows[k][1] for k in bucket])
            done.update(zip(bucket, results, strict=True))
    made: list[list[Pixels]] = [[] for _ in images]
    for k, (i, _) in enumerate(rows):
        made[i].append(done[k])
    return made


def padded(embeddings: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """[1, L_i, D] each to [N, L, D], zeros behind, and the mask [N, L] of what is no padding."""
    longest = max(one.shape[1] for one in embeddings)
    rows = [torch.nn.functional.pad(one, (0, 0, 0, longest - one.shape[1])) for one in embeddings]
    lengths = torch.tensor([one.shape[1] for one in embeddings], device=rows[0].device)
    mask = torch.arange(longest, device=rows[0].device)[None, :] < lengths[:, None]
    return torch.cat(rows), mask.long()


def plain(text: str) -> str:
    """The text without what a tokenizer would take for a control token ("<|im_end|>")."""
    return text.replace("<|", "< |").replace("|>", "| >")


def _one_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
