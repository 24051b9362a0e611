"""FLUX.1 Kontext (arXiv 2506.15742): images edited by instruction. Knows arrays, not records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Gt, Le

from stages.backends.diffusion.settings import FewSteps, Rows, Weights, checkpoints_of
from stages.backends.weights.checkpoints import Checkpoint
from stages.base import OPERATIONAL, Device, Settings

if TYPE_CHECKING:
    from stages.backends.diffusion.flux_kontext_model import FluxKontextModel


@dataclass(frozen=True)
class FluxKontextSettings(Settings):
    """Edits of images of one size go through the model together."""

    name: Literal["flux_kontext"] = "flux_kontext"
    """Which backend this is."""
    model: str = "black-forest-labs/FLUX.1-Kontext-dev"
    """Hub id (gated, non-commercial) or folder of a `FluxKontextPipeline`."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    steps: Annotated[int, Ge(1), Le(200)] = 28
    """Denoising steps."""
    guidance: Annotated[float, Gt(0), Le(20)] = 2.5
    """Weight of the instruction, which this model was distilled to take."""
    few_steps: FewSteps | None = None
    """A few-step LoRA; then `steps` is its number of steps."""
    weights: Weights = "full"
    """Form of the transformer's weights."""
    max_tokens: Annotated[int, Ge(1), Le(512)] = 512
    """Longest instruction, in tokens of the T5 encoder, its end included. CLIP, which only sets a
    mood, reads the first 77."""
    rows: Rows = field(default=4, metadata=OPERATIONAL)
    """Images denoised in one call: speed and memory alone."""

    def checkpoints(self) -> Sequence[Checkpoint]:
        """The pipeline, and the LoRA if there is one."""
        return checkpoints_of(self.model, self.revision, self.few_steps)

    def load(self, device: Device) -> FluxKontextModel:
        """Load the pipeline; CheckpointError or ValueError in one line."""
        from stages.backends.diffusion.flux_kontext_model import FluxKontextModel

        return FluxKontextModel(self, device)
