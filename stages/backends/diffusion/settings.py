"""Settings that several diffusion backends share. All are off by default, for all change images.

Knows no tensors, so that recipes are read without torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Gt, Le

from stages.backends.weights.checkpoints import Checkpoint

Weights = Literal["full", "int8", "fp8"]
"""In what form the transformer's weights are kept and multiplied. "full" is the placement's dtype;
"int8" and "fp8" quantise weights and activations (torchao), fp8 only on GPUs of compute capability
8.9 and later."""

Rows = Annotated[int, Ge(1), Le(256)]


@dataclass(frozen=True)
class FewSteps:
    """A distilled LoRA with which a handful of steps without negative prompt suffice (Lightning).

    It is merged into the weights, and the scheduler's shift becomes a constant.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    lora: str
    """A hub id or a folder."""
    file: str
    """The weights in it: "Qwen-Image-Edit-Lightning-4steps-V1.0-bf16.safetensors"."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    shift: Annotated[float, Gt(0)] = 3.0
    """Noise level s becomes shift s / (1 + (shift - 1) s); 3 is what Lightning was distilled at."""

    def checkpoint(self) -> Checkpoint:
        """Where the LoRA is."""
        return Checkpoint(self.lora, self.revision, (self.file,))


@dataclass(frozen=True)
class FirstBlock:
    """Steps of which the first block says that little has changed reuse the rest (FBCache).

    Each image is then denoised alone: images of one call would decide together.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    kind: Literal["first_block"]
    """Which cache this is."""
    threshold: Annotated[float, Gt(0), Le(1)] = 0.05
    """Relative change of the first block's residual below which a step is reused."""


@dataclass(frozen=True)
class TaylorSeer:
    """Between full steps, the blocks' outputs are extrapolated (arXiv 2503.06923)."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    kind: Literal["taylor_seer"]
    """Which cache this is."""
    interval: Annotated[int, Ge(2), Le(20)] = 5
    """One step in so many is a full one."""
    warm_up: Annotated[int, Ge(1)] = 3
    """Full steps at the start."""
    order: Annotated[int, Ge(0), Le(3)] = 1
    """Of the extrapolation."""


StepCache = FirstBlock | TaylorSeer
"""What a backend's `step_cache` may be; not worth it for few steps."""

_TEXT_FOLDERS = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "processor")
_FILES = (
    "model_index.json",
    *(f"{name}/*" for name in (*_TEXT_FOLDERS, "transformer", "vae", "scheduler")),
)
"""A pipeline's parts; beside them repositories keep the same weights as one file."""


def checkpoints_of(
    model: str, revision: str | None, few_steps: FewSteps | None
) -> Sequence[Checkpoint]:
    """What a diffusion backend will load: the pipeline, and the LoRA if there is one."""
    pipeline = Checkpoint(model, revision, _FILES)
    return (pipeline,) if few_steps is None else (pipeline, few_steps.checkpoint())


def rows_a_call(rows: int, step_cache: StepCache | None) -> int:
    """How many images may be denoised together."""
    return 1 if isinstance(step_cache, FirstBlock) else rows


def require_one_pass(few_steps: FewSteps | None, true_cfg_scale: float) -> None:
    """ValueError for a few-step LoRA together with a negative prompt: it is distilled without."""
    if few_steps is not None and true_cfg_scale > 1:
        raise ValueError(
            f"few_steps is set, and true_cfg_scale is {true_cfg_scale}: few-step weights are made "
            "for one pass a step; set true_cfg_scale to 1"
        )


"""A backend\'s `rows`: how many images are denoised in one call. Speed and memory alone."""
