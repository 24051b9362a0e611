"""Colour words and the basic colour they name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from schemas.records import Span
from stages.wording import lexicon
from stages.wording.tokens import Token, tokenize

BASIC_COLORS = (
    "black",
    "white",
    "gray",
    "red",
    "orange",
    "yellow",
    "green",
    "blue",
    "purple",
    "pink",
    "brown",
)
"""The basic colour terms of English (Berlin and Kay 1969)."""

_SYNONYMS = {name: name for name in BASIC_COLORS} | {
    "grey": "gray",
    "crimson": "red",
    "scarlet": "red",
    "reddish": "red",
    "bluish": "blue",
    "greenish": "green",
    "yellowish": "yellow",
    "navy": "blue",
    "violet": "purple",
    "lavender": "purple",
    "charcoal": "gray",
}

_NEAR = {
    "amber": "orange",
    "aqua": "blue",
    "auburn": "brown",
    "beige": "brown",
    "blond": "yellow",
    "blonde": "yellow",
    "bronze": "brown",
    "burgundy": "red",
    "chestnut": "brown",
    "copper": "orange",
    "cream": "white",
    "cyan": "blue",
    "gold": "yellow",
    "golden": "yellow",
    "ginger": "orange",
    "ivory": "white",
    "khaki": "brown",
    "lilac": "purple",
    "magenta": "pink",
    "maroon": "red",
    "olive": "green",
    "peach": "orange",
    "silver": "gray",
    "tan": "brown",
    "teal": "blue",
    "turquoise": "blue",
}
"""Colours between the basic ones, and colour words that also name other things. They count as the
answer's colour, but are never swapped."""

_SHADES = lexicon.word_set("dark light bright pale deep vivid soft dull pastel neon royal sky")


class ColorWord(NamedTuple):
    """A colour in a text."""

    name: str
    """The basic colour, or the nearest one."""
    span: Span
    """Its words, with the shade: "dark red"."""
    exact: bool
    """False for a word that is not the basic colour or a plain synonym: "teal"."""


def color_at(tokens: Sequence[Token], index: int) -> ColorWord | None:
    """The colour word at tokens[index]; a shade in front of it ("dark red") belongs to it."""
    parts = tokens[index].lower.split("-")
    name = parts[-1]
    if len(parts) > 2 or (len(parts) == 2 and parts[0] not in _SHADES):
        # "white-haired" is not the noun's colour; "red-and-white" and "blue-green" are not basic.
        known = [p for p in parts if p in _SYNONYMS or p in _NEAR]
        if len(known) < 2:
            return None
        first = _SYNONYMS.get(known[0]) or _NEAR[known[0]]
        return ColorWord(first, Span(tokens[index].start, tokens[index].end), exact=False)
    if name not in _SYNONYMS and name not in _NEAR:
        return None
    start = tokens[index].start
    if index > 0 and tokens[index - 1].lower in _SHADES:
        start = tokens[index - 1].start
    near = (tokens[i].lower for i in (index - 1, index + 1) if 0 <= i < len(tokens))
    # "reddish brown" is one colour between two.
    exact = name in _SYNONYMS and not any(word in _SYNONYMS or word in _NEAR for word in near)
    return ColorWord(_SYNONYMS.get(name) or _NEAR[name], Span(start, tokens[index].end), exact)


def color_words(text: str) -> tuple[ColorWord, ...]:
    """All colour words of a text, in order, of any noun."""
    tokens = tokenize(text)
    found = (color_at(tokens, i) for i in range(len(tokens)))
    return tuple(color for color in found if color is not None)


def color_names(texts: Iterable[str]) -> frozenset[str]:
    """The basic colours that words or phrases name: ("dark red", "wooden") gives {"red"}."""
    return frozenset(color.name for text in texts for color in color_words(text))


def is_shade(word: str) -> bool:
    """Whether a word qualifies a colour: "dark", "light"."""
    return word in _SHADES
