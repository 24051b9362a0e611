"""Left and right as sides of an image, and the same text for the mirrored image."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass

from schemas.records import Span
from stages.wording import lexicon
from stages.wording.edits import replace_spans
from stages.wording.mentions import negated
from stages.wording.tokens import Token, tokenize

_OPPOSITE = {
    "left": "right",
    "leftmost": "rightmost",
    "left-hand": "right-hand",
    "lefthand": "righthand",
    "left-most": "right-most",
    "leftward": "rightward",
    "leftwards": "rightwards",
    "left-facing": "right-facing",
    "bottom-left": "bottom-right",
    "top-left": "top-right",
    "upper-left": "upper-right",
    "lower-left": "lower-right",
}
OPPOSITE = _OPPOSITE | {right: left for left, right in _OPPOSITE.items()}
"""Side words and what they become in a mirror."""

_BEFORE = lexicon.word_set(
    "upper lower top bottom far near back front rear center centre extreme his her its their "
    "whose facing looking pointing turning leaning heading turned faces looks points turns "
    "leans moving to toward towards"
)
_AFTER = lexicon.word_set(
    "side hand corner edge half part portion foreground background arm leg foot eye ear paw wing "
    "third end wall lane shoulder front back"
)
_NOT_RIGHT = lexicon.word_set(
    "now next behind in at beside under underneath above below before after away here there on "
    "outside inside over up down into onto near by out through along across against angle angles "
    "of-way answer thing way choice time size tool person people amount moment place order"
)
_DOUBTFUL = re.compile(
    r"\b(?:anti|counter)?-?clockwise\b|o['’]clock|\b(?:reads?|says|saying|reading|labell?ed|"
    r"spells?|written|letters?|words?|text|logo|clocks?|"
    r"numbers?|numbered|digits?|maps?)\b|\b(?:left|right)-?(?:handed|hander|footed)\b|[\"“”]",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class SideReading:
    """What a text says about sides."""

    sides: tuple[Token, ...]
    """"left", "right", "leftmost" ... used as sides, in order."""
    doubt: str | None
    """Why the swapped text may not describe the mirrored image; None if it does."""


def read_sides(text: str) -> SideReading:
    """The side words of a text.

    Not sides: "right now", "right next to", "has left", "left behind", "all right". In doubt, and
    so not mirrored: a "left" or "right" that no rule recognises; "left and right" of one thing,
    which stays true in the mirror; a denial about a side; and what a mirror changes in other ways:
    turning clockwise, left-handed people, clocks and writing.
    """
    tokens = tokenize(text)
    sides: list[Token] = []
    unclear: list[Token] = []
    for i, token in enumerate(tokens):
        if token.lower in OPPOSITE:
            reading = _is_side(tokens, i)
            if reading is None:
                unclear.append(token)
            elif reading:
                sides.append(token)
    doubt = None
    if unclear:
        doubt = f'"{unclear[0].text}" at {unclear[0].start} may be a side or not'
    elif sides:
        doubt = _doubt(text, tokens, sides)
    return SideReading(tuple(sides), doubt)


def mirror_sides(text: str, sides: Sequence[Token]) -> str:
    """The text with these side words swapped."""
    return replace_spans(text, [(Span(s.start, s.end), OPPOSITE[s.lower]) for s in sides])


def side_clause(text: str, side: Token) -> str:
    """The part of the text around a side word, up to the next comma, "and", "while" or stop."""
    tokens = tokenize(text)
    index = next(i for i, token in enumerate(tokens) if token.start == side.start)
    first, last = index, index
    while first > 0 and not _ends_clause(tokens[first - 1]):
        first -= 1
    while last + 1 < len(tokens) and not _ends_clause(tokens[last + 1]):
        last += 1
    return text[tokens[first].start : tokens[last].end]


def _ends_clause(token: Token) -> bool:
    return token.text in {",", ";", ".", "!", "?", ":"} or token.lower in {"and", "while", "or"}


def _is_side(tokens: Sequence[Token], i: int) -> bool | None:
    """True for a side, False for another sense, None where the words around do not tell."""
    word = tokens[i].lower
    if word not in {"left", "right"}:
        return True
    before = tokens[i - 1].lower if i > 0 else ""
    after = tokens[i + 1].lower if i + 1 < len(tokens) else ""
    if before in {"the", "a"}:
        return _behind_article(word, before, after)
    if before in _BEFORE:
        # "to left her alone" is not English; "to right the boat" is, though rare.
        return None if before == "to" and after == "the" else True
    if after in _AFTER:
        return True
    if before in {"on", "at", "from", "to"} and (
        not after[:1].isalpha() or after in {"to", "and", "or"}
    ):
        return True
    if before in {"and", "or"} and i > 1 and tokens[i - 2].lower in OPPOSITE:
        return True
    if word == "right" and (after in _NOT_RIGHT or before in {"all", "human", "civil"}):
        return False
    left_by = lexicon.AUXILIARIES | {"nothing", "anything", "something", "just", "recently"}
    if word == "left" and (before in left_by or after in {"behind", "over", "unattended"}):
        return False
    return None


def _behind_article(word: str, before: str, after: str) -> bool | None:
    if word == "right" and after in _NOT_RIGHT - {"of-way", "in", "at", "front", "back", "there"}:
        # "on the right next to", "on the right under": a side; "the right tool": not.
        return after in lexicon.PREPOSITIONS | {"next", "now"} and before == "the"
    return True


def _doubt(text: str, tokens: Sequence[Token], sides: Sequence[Token]) -> str | None:
    found = _DOUBTFUL.search(text)
    if found:
        return f'"{found.group()}" changes in a mirror too'
    for a, b in itertools.pairwise(sides):
        between = [t.lower for t in tokens if a.end <= t.start < b.start]
        joint = [w for w in between if w not in {"the", "on", "at", "to", "its", "his", "her"}]
        if OPPOSITE[a.lower] == b.lower and joint and set(joint) <= {"and", "or", "&", "/", ","}:
            return f'"{text[a.start : b.end]}" is as true in the mirror'
    for side in sides:
        index = next(i for i, token in enumerate(tokens) if token.start == side.start)
        if negated(tokens, index):
            return f'"{side.text}" is denied, which may be true of both'
    said = [(s.lower, _content(side_clause(text, s))) for s in sides]
    for word, content in said:
        if (OPPOSITE[word], content) in said:
            return "the same is said of both sides"
    return None


def _content(clause: str) -> frozenset[str]:
    words = frozenset(t.lower for t in tokenize(clause) if t.is_word) - OPPOSITE.keys()
    empty = lexicon.PREPOSITIONS | lexicon.DETERMINERS | lexicon.AUXILIARIES | lexicon.QUANTIFIERS
    return words - empty - _AFTER - {"there", "one"}
