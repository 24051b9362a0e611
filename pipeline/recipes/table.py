"""Every key that may stand under `stages:` of a recipe. The one place that names backends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stages.backends.chat.openai import OpenAIChatSettings
from stages.backends.chat.transformers import TransformersChatSettings
from stages.backends.chat.vllm import VllmChatSettings
from stages.backends.diffusion.flux import FluxSettings
from stages.backends.diffusion.flux_kontext import FluxKontextSettings
from stages.backends.diffusion.qwen_edit import QwenImageEditPlusSettings, QwenImageEditSettings
from stages.backends.diffusion.qwen_image import QwenImageSettings
from stages.backends.diffusion.z_image import ZImageSettings
from stages.backends.embed.clip import ClipSettings
from stages.backends.embed.descriptors import ColorLayout, GradientGrid
from stages.backends.embed.dinov2 import Dinov2Settings
from stages.backends.embed.open_clip import OpenClipSettings
from stages.backends.embed.sentence_rules import SentenceRules
from stages.backends.embed.siglip import SiglipSettings
from stages.backends.inpaint.classical import FILLS
from stages.backends.inpaint.lama import LamaSettings
from stages.backends.locate.florence import FlorenceSettings
from stages.backends.locate.grabcut import GrabCut
from stages.backends.locate.grounding_dino import GroundingDinoSettings
from stages.backends.locate.ram import RamSettings
from stages.backends.locate.sam import SEGMENTERS
from stages.backends.locate.sam3 import Sam3Settings
from stages.backends.original.groundingdino import GroundingDinoPySettings
from stages.backends.original.segment_anything import SegmentAnythingSettings
from stages.backends.original.simple_lama import SimpleLamaSettings
from stages.decide.double_threshold import DoubleThreshold
from stages.decide.embedder import Embedder
from stages.decide.locality_check import LocalityCheck
from stages.decide.masker import Masker
from stages.decide.scorer import Scorer
from stages.decide.selector import Selector
from stages.edit.cropper import Cropper
from stages.edit.duplicator import Duplicator
from stages.edit.editor import Editor
from stages.edit.flipper import Flipper
from stages.edit.given_negative import UseGivenNegative
from stages.edit.inpainter import Inpainter
from stages.edit.recolorer import Recolorer
from stages.edit.synthesizer import Synthesizer
from stages.language.answer_pairs import AnswerPairer
from stages.language.answerer import Answerer
from stages.language.describer import Describer
from stages.language.judge import Judge
from stages.language.planner import Planner
from stages.language.questioner import Questioner
from stages.language.rewriter import Rewriter
from stages.language.sampler import Sampler
from stages.language.verifier import ChatVerifier
from stages.locate.annotated_regions import AnnotatedRegions
from stages.locate.detector import Detector
from stages.locate.segmenter import Segmenter
from stages.locate.tagger import Tagger
from stages.read.loader import Loader


@dataclass(frozen=True)
class Choice:
    """What may stand behind a key of `stages:`."""

    stage: type[Any]
    """The stage class; its fields are the settings."""
    backends: Mapping[str, Sequence[type[Any]]]
    """Per backend field of the stage, the backend classes it can use, the default first."""


CHATS: Sequence[type[Any]] = [OpenAIChatSettings, VllmChatSettings]
"""Chat models, the default first."""

STAGES: Mapping[str, Choice] = {
    "loader": Choice(Loader, {}),
    "annotated_regions": Choice(AnnotatedRegions, {}),
    "tagger": Choice(Tagger, {"backend": [RamSettings, FlorenceSettings]}),
    "detector": Choice(
        Detector,
        {
            "backend": [
                GroundingDinoSettings,
                FlorenceSettings,
                Sam3Settings,
                GroundingDinoPySettings,
            ]
        },
    ),
    "segmenter": Choice(Segmenter, {"backend": [GrabCut, *SEGMENTERS, SegmentAnythingSettings]}),
    "inpainter": Choice(Inpainter, {"backend": [*FILLS, LamaSettings, SimpleLamaSettings]}),
    "recolorer": Choice(Recolorer, {}),
    "duplicator": Choice(Duplicator, {}),
    "flipper": Choice(Flipper, {}),
    "cropper": Choice(Cropper, {}),
    "given_negative": Choice(UseGivenNegative, {}),
    "planner": Choice(Planner, {"chat": CHATS}),
    "editor": Choice(
        Editor,
        {
            "backend": [QwenImageEditPlusSettings, QwenImageEditSettings, FluxKontextSettings],
            "check": CHATS,
        },
    ),
    "sampler": Choice(Sampler, {"chat": [*CHATS, TransformersChatSettings]}),
    "judge": Choice(Judge, {"chat": CHATS}),
    "answer_pairs": Choice(AnswerPairer, {}),
    "describer": Choice(Describer, {"chat": CHATS}),
    "synthesizer": Choice(
        Synthesizer, {"backend": [FluxSettings, QwenImageSettings, ZImageSettings]}
    ),
    "questioner": Choice(Questioner, {"chat": CHATS}),
    "rewriter": Choice(Rewriter, {"chat": CHATS}),
    "answerer": Choice(Answerer, {"chat": CHATS}),
    "chat_verifier": Choice(ChatVerifier, {"chat": CHATS}),
    "embedder": Choice(
        Embedder,
        {
            "appearance": [ColorLayout, SiglipSettings, Dinov2Settings],
            "detail": [GradientGrid, Dinov2Settings, SiglipSettings],
        },
    ),
    "scorer": Choice(
        Scorer, {"backend": [ClipSettings, OpenClipSettings], "splitter": [SentenceRules]}
    ),
    "double_threshold": Choice(DoubleThreshold, {}),
    "selector": Choice(Selector, {}),
    "locality_check": Choice(LocalityCheck, {}),
    "masker": Choice(Masker, {}),
}
