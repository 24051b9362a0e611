"""Qwen-Image (arXiv 2508.02324): images from words. Knows texts and arrays, not records."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from annotated_types import Ge, Le

from stages.backends.diffusion.settings import (
    FewSteps,
    Rows,
    StepCache,
    Weights,
    checkpoints_of,
    require_one_pass,
    rows_a_call,
)
from stages.backends.weights.checkpoints import Checkpoint
from stages.base import OPERATIONAL, Device
from stages.edit.canvas import Size
from stages.pixels import Pixels

if TYPE_CHECKING:
    import torch

_MOST_TOKENS = 1024
"""What the pipeline cuts a description at, its own frame of five tokens included."""


@dataclass
class QwenImage:
    """Qwen-Image: weights under Apache-2.0."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

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
    _pipeline: Any = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """ValueError for settings that contradict each other."""
        require_one_pass(self.few_steps, self.true_cfg_scale)

    def checkpoints(self) -> Sequence[Checkpoint]:
        """The pipeline, and the LoRA if there is one."""
        return checkpoints_of(self.model, self.revision, self.few_steps)

    def open(self, device: Device) -> None:
        """Load the pipeline; CheckpointError or ValueError in one line."""
        from stages.backends.diffusion.pipeline import open_pipeline

        self._pipeline = open_pipeline(
            "QwenImagePipeline",
            self.checkpoints()[0],
            device,
            few_steps=self.few_steps,
            weights=self.weights,
            step_cache=self.step_cache,
        )

    def close(self) -> None:
        """Free the device."""
        if self._pipeline is not None:
            self._pipeline.close()
            self._pipeline = None

    def count_tokens(self, descriptions: Sequence[str]) -> list[int]:
        """Lengths of descriptions, to be held against `max_tokens`."""
        from stages.backends.diffusion.pipeline import plain

        ids = self._pipeline.pipe.tokenizer([plain(text) for text in descriptions]).input_ids
        return [len(one) for one in ids]

    def synthesize(
        self, descriptions: Sequence[str], seeds: Sequence[int], size: Size
    ) -> list[Pixels]:
        """One image for each description and its seed; sides are multiples of 16."""
        from stages.backends.diffusion.pipeline import padded, plain

        most = rows_a_call(self.rows, self.step_cache)
        made: list[Pixels] = []
        for start in range(0, len(descriptions), most):
            texts = [plain(text) for text in descriptions[start : start + most]]
            embeds, mask = padded([self._embedding(text) for text in texts])
            words = {"prompt_embeds": embeds, "prompt_embeds_mask": mask}
            if self.true_cfg_scale > 1:
                unwanted = padded([self._embedding(self.negative_prompt)] * len(texts))
                words["negative_prompt_embeds"], words["negative_prompt_embeds_mask"] = unwanted
            made += self._pipeline.images(
                seeds[start : start + most],
                width=size.width,
                height=size.height,
                num_inference_steps=self.steps,
                true_cfg_scale=self.true_cfg_scale,
                max_sequence_length=_MOST_TOKENS,
                **words,
            )
        return made

    def _embedding(self, text: str) -> torch.Tensor:
        """[1, L, D]."""
        embedding: torch.Tensor
        embedding, _ = self._pipeline.read(text, prompt=[text], max_sequence_length=_MOST_TOKENS)
        return embedding
