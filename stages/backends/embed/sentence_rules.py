"""Sentences of English answers by rules. Knows text, not records or models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Self

from stages.base import CpuBackend, Device
from stages.wording.sentences import split_sentences


@dataclass(frozen=True)
class SentenceRules(CpuBackend):
    """Splits by marks, abbreviations and lists; a text without a sentence is one itself."""

    name: Literal["rules"] = "rules"
    """Selects this backend."""

    def load(self, device: Device) -> Self:  # noqa: ARG002  # none is used, so any will do
        """Itself."""
        return self

    def split(self, texts: Sequence[str]) -> list[list[str]]:
        """The sentences of each text, in order; at least one each."""
        return [split_sentences(text) or [text] for text in texts]
