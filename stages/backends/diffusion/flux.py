"""FLUX.1: images from words. Knows texts and arrays, not records."""

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
)
from stages.backends.weights.checkpoints import Checkpoint
from stages.base import OPERATIONAL, Device, Settings

if TYPE_CHECKING:
    from stages.backends.diffusion.flux_model import FluxModel


@dataclass(frozen=True)
class FluxSettings(Settings):
    """FLUX.1-dev with OViP's settings (arXiv 2505.15963, `annotate.py`); schnell without guidance.

    OViP drew all its images from seed 0; here each row has its own.
    """

    name: Literal["flux"] = "flux"
    """Which backend this is."""
    model: str = "black-forest-labs/FLUX.1-dev"
    """Hub id (gated, non-commercial) or folder of a `FluxPipeline`."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    steps: Annotated[int, Ge(1), Le(200)] = 40
    """Denoising steps."""
    guidance: Annotated[float, Gt(0), Le(50)] | None = 7.5
    """Weight of the words, for models distilled to take it, and required by them. The model's
    authors use 3.5."""
    few_steps: FewSteps | None = None
    """A few-step LoRA; then `steps` is its number of steps."""
    weights: Weights = "full"
    """Form of the transformer's weights."""
    step_cache: StepCache | None = None
    """What steps may reuse of earlier ones."""
    max_tokens: Annotated[int, Ge(1), Le(512)] = 512
    """Longest description, in tokens of the T5 encoder, its end included. CLIP, which only sets a
    mood, reads the first 77."""
    rows: Rows = field(default=8, metadata=OPERATIONAL)
    """Images denoised in one call: speed and memory alone."""

    def checkpoints(self) -> Sequence[Checkpoint]:
        """The pipeline, and the LoRA if there is one."""
        return checkpoints_of(self.model, self.revision, self.few_steps)

    def load(self, device: Device) -> FluxModel:
        """Load the pipeline; CheckpointError or ValueError in one line."""
        from stages.backends.diffusion.flux_model import FluxModel

        return FluxModel(self, device)
