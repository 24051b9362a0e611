"""Qwen-Image (arXiv 2508.02324): images from words. Knows texts and arrays, not records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Le

from stages.backends.diffusion.settings import (
    FewSteps,
    Rows,
    StepCache,
    Weights,
    checkpoints_of,
    require_one_pass,
)
from stages.backends.weights.checkpoints import Checkpoint
from stages.base import OPERATIONAL, Device, Settings

if TYPE_CHECKING:
    from stages.backends.diffusion.qwen_image_model import QwenImageModel


@dataclass(frozen=True)
class QwenImageSettings(Settings):
    """Qwen-Image: weights under Apache-2.0."""

    name: Literal["qwen_image"] = "qwen_image"
    """Which backend this is."""
    model: str = "Qwen/Qwen-Image"
    """Hub id or folder of a `QwenImagePipeline`."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    steps: Annotated[int, Ge(1), Le(200)] = 50
    """Denoising steps."""
    true_cfg_scale: Annotated[float, Ge(1), Le(20)] = 4.0
    """Weight of the words against `negative_prompt`; above 1 every step takes two passes."""
    negative_prompt: str = " "
    """What to keep away from; a blank means nothing in particular."""
    few_steps: FewSteps | None = None
    """A few-step LoRA; then `steps` is its number of steps and `true_cfg_scale` must be 1."""
    weights: Weights = "full"
    """Form of the transformer's weights."""
    step_cache: StepCache | None = None
    """What steps may reuse of earlier ones."""
    max_tokens: Annotated[int, Ge(1), Le(1000)] = 512
    """Longest description, in tokens. Nothing is cut off."""
    rows: Rows = field(default=8, metadata=OPERATIONAL)
    """Images denoised in one call: speed and memory alone."""

    def __post_init__(self) -> None:
        """ValueError for settings that contradict each other."""
        require_one_pass(self.few_steps, self.true_cfg_scale)

    def checkpoints(self) -> Sequence[Checkpoint]:
        """The pipeline, and the LoRA if there is one."""
        return checkpoints_of(self.model, self.revision, self.few_steps)

    def load(self, device: Device) -> QwenImageModel:
        """Load the pipeline; CheckpointError or ValueError in one line."""
        from stages.backends.diffusion.qwen_image_model import QwenImageModel

        return QwenImageModel(self, device)
