"""Z-Image (arXiv 2511.22699): images from words. Knows texts and arrays, not records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal

from annotated_types import Ge, Le

from stages.backends.diffusion.settings import Rows, Weights, checkpoints_of
from stages.backends.weights.checkpoints import Checkpoint
from stages.base import OPERATIONAL, Device, Settings

if TYPE_CHECKING:
    from stages.backends.diffusion.z_image_model import ZImageModel


@dataclass(frozen=True)
class ZImageSettings(Settings):
    """Z-Image-Turbo: weights under Apache-2.0, distilled to a few steps without negative prompt."""

    name: Literal["z_image"] = "z_image"
    """Which backend this is."""
    model: str = "Tongyi-MAI/Z-Image-Turbo"
    """Hub id or folder of a `ZImagePipeline`."""
    revision: str | None = None
    """Branch, tag or commit on the hub."""
    steps: Annotated[int, Ge(1), Le(200)] = 9
    """Denoising steps; the last of them changes nothing."""
    guidance: Annotated[float, Ge(0), Le(20)] = 0.0
    """Weight of the words against `negative_prompt`; above 0 every step takes two passes, as the
    undistilled model needs it."""
    negative_prompt: str = ""
    """What to keep away from."""
    weights: Weights = "full"
    """Form of the transformer's weights."""
    max_tokens: Annotated[int, Ge(1), Le(512)] = 512
    """Longest description, in tokens, its frame included."""
    rows: Rows = field(default=8, metadata=OPERATIONAL)
    """Images denoised in one call: speed and memory alone."""

    def checkpoints(self) -> Sequence[Checkpoint]:
        """The pipeline."""
        return checkpoints_of(self.model, self.revision, None)

    def load(self, device: Device) -> ZImageModel:
        """Load the pipeline; CheckpointError or ValueError in one line."""
        from stages.backends.diffusion.z_image_model import ZImageModel

        return ZImageModel(self, device)
