"""Model families: how each one's own processor turns images and texts into token ids and pixels."""

from trainer.families.answers import AnswerTokens
from trainer.families.family import ANCHORS, Family, Pixels, PromptTokens, load_family

__all__ = ["ANCHORS", "AnswerTokens", "Family", "Pixels", "PromptTokens", "load_family"]
