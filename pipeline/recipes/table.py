"""Every key that may stand under `stages:` of a recipe. The one place that names backends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stages.answerer import Answerer
from stages.backends.clip import Clip
from stages.backends.descriptors import ColorLayout, GradientGrid
from stages.backends.dinov2 import Dinov2
from stages.backends.fill import FILLS
from stages.backends.florence import Florence
from stages.backends.flux import Flux
from stages.backends.flux_kontext import FluxKontext
from stages.backends.grabcut import GrabCut
from stages.backends.grounding_dino import GroundingDino
from stages.backends.lama import Lama
from stages.backends.open_clip import OpenClip
from stages.backends.openai_chat import OpenAIChat
from stages.backends.original.groundingdino import GroundingDinoPy
from stages.backends.original.segment_anything import SegmentAnything
from stages.backends.original.simple_lama import SimpleLama
from stages.backends.qwen_edit import QwenImageEdit, QwenImageEditPlus
from stages.backends.qwen_image import QwenImage
from stages.backends.ram import Ram
from stages.backends.sam import SEGMENTERS
from stages.backends.sentence_rules import SentenceRules
from stages.backends.siglip import Siglip
from stages.backends.transformers_chat import TransformersChat
from stages.backends.vllm_chat import VllmChat
from stages.backends.z_image import ZImage
from stages.chat_verifier import ChatVerifier
from stages.counterpart import BroughtCounterpart
from stages.cropper import Cropper
from stages.describer import Describer
from stages.detector import Detector
from stages.duplicator import Duplicator
from stages.editor import Editor
from stages.embedder import Embedder
from stages.filter import DoubleThreshold
from stages.flipper import Flipper
from stages.grounder import AnnotatedRegions
from stages.inpainter import Inpainter
from stages.judge import Judge
from stages.loader import Loader
from stages.masker import Masker
from stages.pairer import Pairer
from stages.planner import Planner
from stages.questioner import Questioner
from stages.recolorer import Recolorer
from stages.rewriter import Rewriter
from stages.sampler import Sampler
from stages.scorer import Scorer
from stages.segmenter import Segmenter
from stages.selector import Selector
from stages.synthesizer import Synthesizer
from stages.tagger import Tagger
from stages.verifier import LocalityCheck


@dataclass(frozen=True)
class Choice:
    """What may stand behind a key of `stages:`."""

    stage: type[Any]
    """The stage class; its fields are the settings."""
    backends: Mapping[str, Sequence[type[Any]]]
    """Per backend field of the stage, the backend classes it can use, the default first."""


CHATS: Sequence[type[Any]] = [OpenAIChat, VllmChat]
"""Chat models, the default first."""

STAGES: Mapping[str, Choice] = {
    "loader": Choice(Loader, {}),
    "annotated_regions": Choice(AnnotatedRegions, {}),
    "tagger": Choice(Tagger, {"backend": [Ram, Florence]}),
    "detector": Choice(Detector, {"backend": [GroundingDino, Florence, GroundingDinoPy]}),
    "segmenter": Choice(Segmenter, {"backend": [GrabCut, *SEGMENTERS, SegmentAnything]}),
    "inpainter": Choice(Inpainter, {"backend": [*FILLS, Lama, SimpleLama]}),
    "recolorer": Choice(Recolorer, {}),
    "duplicator": Choice(Duplicator, {}),
    "flipper": Choice(Flipper, {}),
    "cropper": Choice(Cropper, {}),
    "brought_counterpart": Choice(BroughtCounterpart, {}),
    "planner": Choice(Planner, {"chat": CHATS}),
    "editor": Choice(
        Editor, {"backend": [QwenImageEditPlus, QwenImageEdit, FluxKontext], "check": CHATS}
    ),
    "sampler": Choice(Sampler, {"chat": [*CHATS, TransformersChat]}),
    "judge": Choice(Judge, {"chat": CHATS}),
    "pairer": Choice(Pairer, {}),
    "describer": Choice(Describer, {"chat": CHATS}),
    "synthesizer": Choice(Synthesizer, {"backend": [Flux, QwenImage, ZImage]}),
    "questioner": Choice(Questioner, {"chat": CHATS}),
    "rewriter": Choice(Rewriter, {"chat": CHATS}),
    "answerer": Choice(Answerer, {"chat": CHATS}),
    "chat_verifier": Choice(ChatVerifier, {"chat": CHATS}),
    "embedder": Choice(
        Embedder,
        {"appearance": [ColorLayout, Siglip, Dinov2], "detail": [GradientGrid, Dinov2, Siglip]},
    ),
    "scorer": Choice(Scorer, {"backend": [Clip, OpenClip], "splitter": [SentenceRules]}),
    "double_threshold": Choice(DoubleThreshold, {}),
    "selector": Choice(Selector, {}),
    "locality_check": Choice(LocalityCheck, {}),
    "masker": Choice(Masker, {}),
}
