"""Singular and plural of English nouns, and the noun that a label is about."""

from __future__ import annotations

from functools import cache, lru_cache
from typing import Any

from stages.wording import lexicon
from stages.wording.tokens import tokenize

# `inflect` takes "bus" for the plural of "bu".
_SINGULAR_IN_S = lexicon.word_set(
    "atlas bus canvas chaos chassis christmas gas iris lens pancreas tennis this his its is was "
    "has asparagus compass series species"
)
PLURAL_ONLY = lexicon.word_set(
    "binoculars clothes goggles jeans leggings pajamas pants pliers scissors shears "
    "shorts sunglasses tights trousers tweezers"
)
"""Words that name one thing in the plural; one more of it needs "pairs of"."""


@cache
def _engine() -> Any:
    # Imported here: it takes over a second, which the driver's command line should not pay.
    import inflect  # noqa: PLC0415

    return inflect.engine()


def load_rules() -> None:
    """Load the plural rules now; stages do so when they open, outside any call's time limit."""
    _engine()


@lru_cache(maxsize=4096)
def singular_of(noun: str) -> str | None:
    """The singular of a plural noun in lower case; None if the word is a singular."""
    if noun in PLURAL_ONLY or noun in _SINGULAR_IN_S or len(noun) < 3:
        return None
    if noun.endswith("us") and noun not in {"menus", "emus", "gnus"}:
        return None
    found = _engine().singular_noun(noun)
    return str(found) if found and found != noun else None


@lru_cache(maxsize=4096)
def plural_of(noun: str) -> str:
    """The plural of a singular noun in lower case; a plural is returned unchanged."""
    if noun in PLURAL_ONLY or singular_of(noun) is not None:
        return noun
    return str(_engine().plural_noun(noun) or noun)


def is_plural(noun: str) -> bool:
    """Whether a noun in lower case is a plural ("dogs", "trousers"); "sheep" counts as singular."""
    return noun in PLURAL_ONLY or singular_of(noun) is not None


@lru_cache(maxsize=4096)
def same_noun(one: str, other: str) -> bool:
    """Whether two words are the same noun, whatever their case and number."""
    a, b = one.lower(), other.lower()
    if not a or not b:
        return False
    return a == b or (singular_of(a) or a) == (singular_of(b) or b)


@lru_cache(maxsize=4096)
def article_for(phrase: str) -> str:
    """The article, "a" or "an", that fits the sound of the phrase."""
    return str(_engine().a(phrase)).split(maxsplit=1)[0]


@lru_cache(maxsize=4096)
def head_noun(label: str) -> str:
    """The noun a label is about, in lower case; "" for a label without words.

    The last word before a preposition, a comma or a description: "bear cub" gives "cub",
    "cup of tea" gives "cup", "man wearing a hat" gives "man".
    """
    phrase = label_words(label)
    return phrase[-1] if phrase else ""


@lru_cache(maxsize=4096)
def label_words(label: str) -> tuple[str, ...]:
    """The words of a label up to and with its head noun, in lower case, without an article."""
    found: list[str] = []
    for token in tokenize(label.replace("_", " ")):
        word = token.lower
        ends = not token.is_word or word in lexicon.PREPOSITIONS or word in lexicon.PARTICIPLES
        if found and ends:
            break
        if token.is_word and word not in lexicon.DETERMINERS:
            found.append(word.removesuffix("'s").removesuffix("’s"))
    while len(found) > 1 and found[-1].isdecimal():
        found.pop()  # "dog 1" is the first of the dogs
    return tuple(found)
