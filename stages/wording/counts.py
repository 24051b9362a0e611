"""Numbers attached to a noun, and the same text with one more of it."""

from __future__ import annotations

from collections.abc import Sequence

from schemas.records import Span
from stages.wording import lexicon
from stages.wording.edits import replace_spans
from stages.wording.mentions import NUMBERS, Mention
from stages.wording.nouns import PLURAL_ONLY, plural_of
from stages.wording.tokens import Token, tokenize

MAX_COUNT = 12
"""Larger numbers are rarely exact in a description."""

_WORDS = tuple(NUMBERS)

# "In front stands a stool": with these, the noun right behind is the subject.
_INVERTED = lexicon.word_set("stands sits lies hangs rests floats walks runs swims")


def number_words(number: int, *, digits: bool = False) -> str:
    """A count as a description writes it: "three"; digits where asked for or above twenty."""
    return str(number) if digits or number >= len(_WORDS) else _WORDS[number]


def counted(text: str, mentions: Sequence[Mention]) -> Mention | str:
    """The one mention that says how many there are, or in words why there is none to trust.

    Trusted are a number word, digits, or "a" for one, right in the noun's phrase. Not trusted:
    several numbers, "some", "both", "another", "a single", "two of the", and a phrase that only
    says what something is ("it is a dog").
    """
    numbered = [m for m in mentions if m.number is not None]
    if not numbered:
        return "no number goes with it"
    if len(numbered) > 1:
        return f"{len(numbered)} numbers go with it"
    (mention,) = numbered
    others = [m for m in mentions if m is not mention]
    if any(m.vague for m in mentions):
        return "a quantifier goes with it"
    if any(t.lower in lexicon.SOLITARY for m in mentions for t in m.modifiers):
        return "it is said to be alone"
    if any(m.plural != mention.plural or m.opener is None for m in others):
        return "it is also named without a number"
    if mention.number == 0 or (mention.number or 0) >= MAX_COUNT:
        return f"{mention.number} is not a count to raise by one"
    if mention.noun.lower in PLURAL_ONLY or plural_of(mention.noun.lower) == "":
        return "the noun has no number"
    tokens = tokenize(text)
    first = _first_index(tokens, mention)
    if first > 0 and tokens[first - 1].lower in lexicon.COPULAS and not _existential(tokens, first):
        return "it is named as what something is"
    if first > 0 and tokens[first - 1].lower == "as":
        return "it is named in a comparison"
    return mention


def place_word(text: str, mention: Mention) -> str | None:
    """The word that ties the noun to one place, where a copy elsewhere would not be; or None.

    Any word of position or of nearness in the noun's sentence ("next to", "in the middle"), and in
    front of the noun a word for what somebody does with it ("holding", "riding").
    """
    tokens = tokenize(text)
    first, last = mention.index, mention.index
    while first > 0 and tokens[first - 1].text not in ".!?;":
        first -= 1
    while last + 1 < len(tokens) and tokens[last + 1].text not in ".!?;":
        last += 1
    for i in range(first, last + 1):
        word = tokens[i].lower
        if word in lexicon.PLACE_WORDS or (i < mention.index and word in lexicon.HANDLING_WORDS):
            return tokens[i].text
    return None


def one_more(text: str, mentions: Sequence[Mention], mention: Mention) -> str:
    """The text with the number of `mention` raised by one.

    For one thing the noun becomes plural, in every mention, with the verb right behind it or found
    as its predicate ("a dog in the grass is" to "two dogs in the grass are"), "there is", and an
    "its" in the same sentence when the noun opens the sentence.
    """
    assert mention.opener is not None
    assert mention.number is not None
    tokens = tokenize(text)
    digits = mention.opener.lower.isdecimal()
    edits = {_span(mention.opener): number_words(mention.number + 1, digits=digits)}
    if not mention.plural:
        for each in mentions:
            edits[_span(each.noun)] = plural_of(each.noun.lower)
            edits |= _plural_verb(tokens, each)
        first = _first_index(tokens, mention)
        edits |= _plural_before(tokens, first)
        if first == 0 or tokens[first - 1].text in ".!?" or _existential(tokens, first):
            edits |= _plural_possessives(tokens, mention.index)
    return replace_spans(text, edits.items())


def _first_index(tokens: Sequence[Token], mention: Mention) -> int:
    start = mention.span.start
    return next(i for i, token in enumerate(tokens) if token.start == start)


def _span(token: Token) -> Span:
    return Span(token.start, token.end)


def _existential(tokens: Sequence[Token], first: int) -> bool:
    """Whether "there is" or "there's" stands right before tokens[first]."""
    if first > 0 and tokens[first - 1].lower in {"there's", "there’s"}:
        return True
    return (
        first > 1
        and tokens[first - 2].lower == "there"
        and tokens[first - 1].lower in {"is", "was", "are", "were"}
    )


def _plural_verb(tokens: Sequence[Token], mention: Mention) -> dict[Span, str]:
    index = mention.predicate
    if index is None:
        index = mention.index + 1
        if index < len(tokens) and tokens[index].lower in {"that", "which", "who"}:
            index += 1
    if index >= len(tokens) or tokens[index].lower not in lexicon.BASE_OF_VERB:
        return {}
    return {_span(tokens[index]): lexicon.BASE_OF_VERB[tokens[index].lower]}


def _plural_before(tokens: Sequence[Token], first: int) -> dict[Span, str]:
    if first == 0:
        return {}
    before = tokens[first - 1]
    if before.lower in {"there's", "there’s"}:
        return {_span(before): "there are"}
    if _existential(tokens, first) or before.lower in _INVERTED:
        return {_span(before): lexicon.BASE_OF_VERB[before.lower]}
    return {}


def _plural_possessives(tokens: Sequence[Token], index: int) -> dict[Span, str]:
    edits: dict[Span, str] = {}
    for token in tokens[index + 1 :]:
        if token.text in ".!?":
            break
        if token.lower in {"its", "itself"}:
            edits[_span(token)] = "their" if token.lower == "its" else "themselves"
    return edits
