"""The families that are known, and what a checkpoint's configuration says about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trainer.errors import UsageError


@dataclass(frozen=True, slots=True)
class Kind:
    """What differs between families beyond their processors."""

    name: str
    """As people call it."""
    several_images: bool
    """Whether it was trained on prompts with several images. What was not treats a second image as
    noise at best, so a loss that shows two is refused."""
    tiles_alone: bool = False
    """Whether an image is cut into tiles only where it is the prompt's only one (OneVision), so
    that one image is two different inputs."""


_BY_TYPE = {
    "llava_next": Kind("LLaVA-NeXT", several_images=False),
    "llava_onevision": Kind("LLaVA-OneVision", several_images=True, tiles_alone=True),
    "qwen2_5_vl": Kind("Qwen2.5-VL", several_images=True),
    "qwen3_vl": Kind("Qwen3-VL", several_images=True),
}
_LLAVA = Kind("LLaVA-1.5", several_images=False)
_INTERLEAVE = Kind("LLaVA-Interleave", several_images=True)


def kind_of(config: Any, model: str) -> Kind:
    """The family of a checkpoint by its configuration; UsageError for one that is not known.

    LLaVA-1.5 and Interleave are one class of transformers: the former has CLIP's tower, the latter
    SigLIP's.
    """
    if config.model_type == "llava":
        clip = config.vision_config.model_type == "clip_vision_model"
        return _LLAVA if clip else _INTERLEAVE
    kind = _BY_TYPE.get(config.model_type)
    if kind is None:
        raise UsageError(
            f"{model} is a {config.model_type} model; "
            f"known are llava (1.5 and Interleave), {', '.join(sorted(_BY_TYPE))}"
        )
    return kind
