"""LLaVA-1.5 and LLaVA-Interleave: one class of transformers, an image is one square."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from trainer.families.family import Evaluators, Family

if TYPE_CHECKING:
    from transformers import BatchFeature, PreTrainedConfig

    from trainer.families.inputs import ImageTensors

GREEDY = {"do_sample": False, "temperature": 0, "top_p": None, "num_beams": 1}
"""What VLMEvalKit's LLaVA classes sample with is overridden."""


class Llava15(Family):
    """Images are resized and cropped by CLIP's processor, which keeps their middle alone."""

    name = "LLaVA-1.5"
    model_types = ("llava",)
    several_images = False
    evaluators = Evaluators("llava_hf", "LLaVA_Next", GREEDY, path_word="interleave")
    clip: ClassVar[bool] = True
    """Whether the tower is CLIP's, which tells the two families apart."""

    @classmethod
    def reads(cls, config: PreTrainedConfig) -> bool:
        """Whether the class of transformers is theirs and the tower the family's."""
        is_clip = super().reads(config) and config.vision_config.model_type == "clip_vision_model"
        return super().reads(config) and is_clip is cls.clip

    def image_tensors(self, made: BatchFeature, number: int) -> ImageTensors:
        """One square an image."""
        return {"pixel_values": made["pixel_values"][number : number + 1]}

    @property
    def cuts_edges(self) -> bool:
        """CLIP's processor crops; SigLIP's does not."""
        return bool(getattr(self.processor.image_processor, "do_center_crop", False))


class LlavaInterleave(Llava15):
    """SigLIP's tower, and trained on prompts with several images."""

    name = "LLaVA-Interleave"
    several_images = True
    clip = False
