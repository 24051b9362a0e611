"""Sentences of English answers by rules. Knows text, not records or models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from stages.base import Device
from stages.wording.sentences import split_sentences


@dataclass
class SentenceRules:
    """Splits by marks, abbreviations and lists; a text without a sentence is one itself."""

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    name: Literal["rules"] = "rules"
    """Selects this backend."""

    def open(self, device: Device) -> None:
        """Nothing to load; any device will do, as none is used."""

    def close(self) -> None:
        """Nothing to free."""

    def split(self, texts: Sequence[str]) -> list[list[str]]:
        """The sentences of each text, in order; at least one each."""
        return [split_sentences(text) or [text] for text in texts]
