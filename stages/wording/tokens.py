"""Text to words and punctuation marks with their character offsets. Any script."""

from __future__ import annotations

import unicodedata
from functools import lru_cache
from typing import NamedTuple

_JOINERS = frozenset("'’-")


class Token(NamedTuple):
    """A word, or one punctuation mark."""

    text: str
    """As written."""
    start: int
    """Offset of its first character in the text (code points)."""
    end: int
    """Offset after its last character."""

    @property
    def lower(self) -> str:
        """The token as the word lists spell it."""
        return self.text.lower()

    @property
    def is_word(self) -> bool:
        """False for a punctuation mark or symbol."""
        return _is_word_char(self.text[0])


@lru_cache(maxsize=256)
def tokenize(text: str) -> tuple[Token, ...]:
    """Words and punctuation marks of a text, in order; white space is left out.

    A word is a run of letters, marks, digits and underscores; an apostrophe or hyphen between two
    of them joins ("dog's", "red-and-white"). Ideographs and kana, which are written without
    spaces, are words one by one. Every other character is a token of its own.
    """
    tokens: list[Token] = []
    start = 0
    while start < len(text):
        if text[start].isspace():
            start += 1
            continue
        end = start + 1
        if _is_word_char(text[start]) and not _stands_alone(text[start]):
            end = _word_end(text, end)
        tokens.append(Token(text[start:end], start, end))
        start = end
    return tuple(tokens)


def _word_end(text: str, end: int) -> int:
    while end < len(text):
        if _is_word_char(text[end]) and not _stands_alone(text[end]):
            end += 1
        elif (
            text[end] in _JOINERS
            and end + 1 < len(text)
            and _is_word_char(text[end + 1])
            and not _stands_alone(text[end + 1])
        ):
            end += 2
        else:
            break
    return end


def _is_word_char(char: str) -> bool:
    return char == "_" or unicodedata.category(char)[0] in "LMN"


def _stands_alone(char: str) -> bool:
    # Kana, CJK ideographs with extension A, compatibility ideographs, the supplementary planes.
    return (
        "\u3040" <= char <= "\u30ff"
        or "\u3400" <= char <= "\u9fff"
        or "\uf900" <= char <= "\ufaff"
        or "\U00020000" <= char <= "\U0003ffff"
    )
