"""The words in which two texts differ."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher

from schemas.records import Span
from stages.wording.tokens import Token, tokenize


def difference(one: str, other: str) -> tuple[tuple[Span, ...], tuple[Span, ...]] | None:
    """Where two texts differ, as spans of each; None if they have the same words.

    The texts are compared word by word (a punctuation mark counts as a word, white space does not,
    case does). The spans of each text are sorted, disjoint, not empty, and begin and end with a
    word.

    * Words replaced by others: a span over the old words, and one over the new words.
    * Words only inserted or only deleted: a span over them in the text that has them; in the other
      text a span over the words before and after the gap (only one of them at either end of the
      text), so that both sides are marked.
    * Spans that touch or overlap, with nothing but white space between them, become one.
    """
    a, b = tokenize(one), tokenize(other)
    if [t.text for t in a if t.is_word] == [t.text for t in b if t.is_word]:
        return None
    spans_a: list[Span] = []
    spans_b: list[Span] = []
    for tag, a0, a1, b0, b1 in _opcodes(a, b):
        if tag != "equal":
            spans_a += _marked(a, a0, a1)
            spans_b += _marked(b, b0, b1)
    return _merged(one, spans_a), _merged(other, spans_b)


def _marked(tokens: Sequence[Token], first: int, end: int) -> list[Span]:
    """The words [first, end), or for an empty range the words on both sides of the gap."""
    if first == end:
        first, end = max(first - 1, 0), min(end + 1, len(tokens))
    return [Span(tokens[first].start, tokens[end - 1].end)] if first < end else []


def _merged(text: str, spans: Sequence[Span]) -> tuple[Span, ...]:
    merged: list[Span] = []
    for span in spans:
        if merged and not text[merged[-1].end : span.start].strip():
            merged[-1] = Span(merged[-1].start, max(merged[-1].end, span.end))
        else:
            merged.append(span)
    return tuple(merged)


def differing_words(one: str, other: str) -> tuple[frozenset[str], frozenset[str]]:
    """The words (case-folded, no punctuation) that one text has where the other has others or none.

    A word that is among both has only moved, and is in neither set.
    """
    a, b = tokenize(one), tokenize(other)
    first: set[str] = set()
    second: set[str] = set()
    for tag, a0, a1, b0, b1 in _opcodes(a, b):
        if tag != "equal":
            first |= {token.text.casefold() for token in a[a0:a1] if token.is_word}
            second |= {token.text.casefold() for token in b[b0:b1] if token.is_word}
    return frozenset(first - second), frozenset(second - first)


def _opcodes(a: Sequence[Token], b: Sequence[Token]) -> list[tuple[str, int, int, int, int]]:
    first, second = [token.text for token in a], [token.text for token in b]
    # autojunk would treat frequent words of long texts as noise.
    return list(SequenceMatcher(None, first, second, autojunk=False).get_opcodes())
