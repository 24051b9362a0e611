"""Qwen-Image-Edit (arXiv 2508.02324): images edited by instruction. Knows arrays, not records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Gt, Le

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
    from stages.backends.diffusion.qwen_edit_model import QwenImageEditModel, QwenImageEditPlusModel


@dataclass(frozen=True)
class _QwenEdit(Settings):
    """What both generations share."""

    name: str = ""
    """Which backend this is."""
    model: str = ""
    """Hub id or folder."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    steps: Annotated[int, Ge(1), Le(200)] = 50
    """Denoising steps."""
    true_cfg_scale: Annotated[float, Ge(1), Le(20)] = 4.0
    """Weight of the instruction against `negative_prompt`; above 1 every step takes two passes."""
    negative_prompt: str = " "
    """What to keep away from; a blank, as the model was published, means nothing in particular."""
    guidance: Annotated[float, Gt(0), Le(20)] | None = None
    """For versions that are distilled to take it, and required by them."""
    few_steps: FewSteps | None = None
    """A few-step LoRA; then `steps` is its number of steps and `true_cfg_scale` must be 1."""
    weights: Weights = "full"
    """Form of the transformer's weights."""
    step_cache: StepCache | None = None
    """What steps may reuse of earlier ones."""
    max_tokens: Annotated[int, Ge(1), Le(1000)] = 512
    """Longest instruction, in tokens. Nothing is cut off."""
    rows: Rows = field(default=4, metadata=OPERATIONAL)
    """Images denoised in one call: speed and memory alone."""

    def __post_init__(self) -> None:
        """ValueError for settings that contradict each other."""
        require_one_pass(self.few_steps, self.true_cfg_scale)

    def checkpoints(self) -> Sequence[Checkpoint]:
        """The pipeline, and the LoRA if there is one."""
        return checkpoints_of(self.model, self.revision, self.few_steps)


@dataclass(frozen=True)
class QwenImageEditSettings(_QwenEdit):
    """The first generation. Edits of images of one size go through the model together."""

    name: Literal["qwen_image_edit"] = "qwen_image_edit"
    """Which backend this is."""
    model: str = "Qwen/Qwen-Image-Edit"
    """Hub id or folder of a `QwenImageEditPipeline`."""

    def load(self, device: Device) -> QwenImageEditModel:
        """The model; CheckpointError or ValueError in one line."""
        from stages.backends.diffusion.qwen_edit_model import QwenImageEditModel

        return QwenImageEditModel(self, device)


@dataclass(frozen=True)
class QwenImageEditPlusSettings(_QwenEdit):
    """The second generation (2509, 2511). Takes one edit a call, with all its seeds together."""

    name: Literal["qwen_image_edit_plus"] = "qwen_image_edit_plus"
    """Which backend this is."""
    model: str = "Qwen/Qwen-Image-Edit-2511"
    """Hub id or folder of a `QwenImageEditPlusPipeline`."""
    steps: Annotated[int, Ge(1), Le(200)] = 40
    """Denoising steps."""

    def load(self, device: Device) -> QwenImageEditPlusModel:
        """The model; CheckpointError or ValueError in one line."""
        from stages.backends.diffusion.qwen_edit_model import QwenImageEditPlusModel

        return QwenImageEditPlusModel(self, device)


QWEN_EDITORS = (QwenImageEditPlusSettings, QwenImageEditSettings)
"""What a recipe can choose from, the default first."""
