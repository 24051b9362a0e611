"""Replacing words of a text so that case and articles still fit."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from schemas.records import Span
from stages.wording import lexicon
from stages.wording.nouns import article_for
from stages.wording.tokens import tokenize


def replace_spans(text: str, replacements: Iterable[tuple[Span, str]]) -> str:
    """The text with each span replaced by its words.

    A replacement takes the case of what it replaces (capital first letter, all capitals), and an
    "a" or "an" right in front of it is made to agree: "a red apple" to "an orange apple".
    ValueError if spans overlap or leave the text.
    """
    edits = dict(sorted(replacements))
    _check(text, list(edits))
    tokens = tokenize(text)
    for before, after in itertools.pairwise(tokens):
        article = Span(before.start, before.end)
        if before.lower not in lexicon.ARTICLES or article in edits:
            continue
        for span, words in list(edits.items()):
            if span.start == after.start and words:
                edits[article] = article_for(words + text[span.end : span.end + 40])
    result = text
    for span in sorted(edits, reverse=True):
        old = text[span.start : span.end]
        result = result[: span.start] + _cased(edits[span], old) + result[span.end :]
    return result


def _check(text: str, spans: list[Span]) -> None:
    for span in spans:
        if not 0 <= span.start <= span.end <= len(text):
            raise ValueError(f"span {tuple(span)} leaves the text of {len(text)} characters")
    for left, right in itertools.pairwise(spans):
        if left.end > right.start:
            raise ValueError(f"spans {tuple(left)} and {tuple(right)} overlap")


def _cased(new: str, old: str) -> str:
    letters = [c for c in old if c.isalpha()]
    if len(letters) > 1 and all(c.isupper() for c in letters):
        return new.upper()
    if letters and letters[0].isupper():
        return new[:1].upper() + new[1:]
    return new
