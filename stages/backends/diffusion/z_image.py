"""Z-Image (arXiv 2511.22699): images from words. Knows texts and arrays, not records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le

from stages.backends.diffusion.settings import Rows, Weights, checkpoints_of
from stages.backends.weights.checkpoints import Checkpoint
from stages.base import OPERATIONAL, Device
from stages.edit.canvas import Size
from stages.pixels import Pixels

if TYPE_CHECKING:
    import torch


@dataclass
class ZImage:
    """Z-Image-Turbo: weights under Apache-2.0, distilled to a few steps without negative prompt."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

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
    _pipeline: Any = field(default=None, init=False, repr=False, compare=False)

    def checkpoints(self) -> Sequence[Checkpoint]:
        """The pipeline."""
        return checkpoints_of(self.model, self.revision, None)

    def open(self, device: Device) -> None:
        """Load the pipeline; CheckpointError or ValueError in one line."""
        from stages.backends.diffusion.pipeline import open_pipeline

        self._pipeline = open_pipeline(
            "ZImagePipeline", self.checkpoints()[0], device, weights=self.weights
        )

    def close(self) -> None:
        """Free the device."""
        if self._pipeline is not None:
            self._pipeline.close()
            self._pipeline = None

    def count_tokens(self, descriptions: Sequence[str]) -> list[int]:
        """Lengths of descriptions, to be held against `max_tokens`."""
        from stages.backends.diffusion.pipeline import plain

        framed = [
            self._pipeline.pipe.tokenizer.apply_chat_template(
                [{"role": "user", "content": plain(text)}],
                tokenize=False,
                add_generation_prompt=True,
                enable_thinking=True,
            )
            for text in descriptions
        ]
        return [len(one) for one in self._pipeline.pipe.tokenizer(framed).input_ids]

    def synthesize(
        self, descriptions: Sequence[str], seeds: Sequence[int], size: Size
    ) -> list[Pixels]:
        """One image for each description and its seed; sides are multiples of 16."""
        from stages.backends.diffusion.pipeline import plain

        made: list[Pixels] = []
        for start in range(0, len(descriptions), self.rows):
            texts = descriptions[start : start + self.rows]
            words = {"prompt_embeds": [self._embedding(plain(text)) for text in texts]}
            if self.guidance > 0:
                words["negative_prompt_embeds"] = [self._embedding(self.negative_prompt)] * len(
                    texts
                )
            made += self._pipeline.images(
                seeds[start : start + self.rows],
                width=size.width,
                height=size.height,
                num_inference_steps=self.steps,
                guidance_scale=self.guidance,
                **words,
            )
        return made

    def _embedding(self, text: str) -> torch.Tensor:
        """[L, D], without padding."""
        (embedding,), _ = self._pipeline.read(
            text,
            prompt=[text],
            do_classifier_free_guidance=False,
            max_sequence_length=self.max_tokens,
        )
        only: torch.Tensor = embedding
        return only
