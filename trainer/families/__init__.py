"""Model families, a class each: pixels, placeholders, encoding, positions, parts, names elsewhere.

To add one: a subclass of `Family` in a file of its own here, and its name in `load.py`'s import.
"""

from trainer.families.answers import AnswerTokens
from trainer.families.family import ANCHORS, Evaluators, Family
from trainer.families.inputs import ImageFeatures, ImageTensors, Pixels, PromptTokens, joined
from trainer.families.load import family_of, load_config, load_family

__all__ = [
    "ANCHORS",
    "AnswerTokens",
    "Evaluators",
    "Family",
    "ImageFeatures",
    "ImageTensors",
    "Pixels",
    "PromptTokens",
    "family_of",
    "joined",
    "load_config",
    "load_family",
]
