"""Answers to token ids, and spans of characters to tokens. Knows tokenizers, not prompts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from schemas.records import Span

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, slots=True)
class AnswerTokens:
    """An answer as it follows a prompt."""

    ids: NDArray[np.int64]
    """Its tokens, the end-of-turn token last."""
    marked: NDArray[np.bool_]
    """Of each token, whether it overlaps a span by a character or more; never of the last."""


def answer_tokens(
    tokenizer: PreTrainedTokenizerBase, text: str, spans: Iterable[Span], end_of_turn: int
) -> AnswerTokens:
    """Tokens of an answer, tokenised alone, then the end-of-turn token.

    Alone, because so its tokens are the same after every prompt; what looks like a special token in
    the text is text. Without spans no offsets are asked for, which not all tokenizers have.
    """
    spans = tuple(spans)
    encoded = tokenizer(
        text,
        add_special_tokens=False,
        return_offsets_mapping=bool(spans),
        split_special_tokens=True,
    )
    ids = np.array([*encoded["input_ids"], end_of_turn], np.int64)
    marked = np.zeros(len(ids), bool)
    if spans:
        marked[:-1] = marked_by(encoded["offset_mapping"], spans)
    return AnswerTokens(ids, marked)


def marked_by(offsets: Iterable[tuple[int, int]], spans: Iterable[Span]) -> NDArray[np.bool_]:
    """Of each token, given as [start, end) characters, whether it overlaps a span.

    A character that is several tokens (bytes) counts with all of them. A piece that carries the
    space before it overlaps a span of that space alone where the tokenizer counts it to the piece.
    """
    table = np.array(list(offsets), np.int64).reshape(-1, 1, 2)
    edges = np.array([tuple(span) for span in spans], np.int64).reshape(1, -1, 2)
    overlap = np.minimum(table[..., 1], edges[..., 1]) - np.maximum(table[..., 0], edges[..., 0])
    return np.asarray((overlap > 0).any(1))
