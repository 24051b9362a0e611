"""Which verb a noun is the subject of, and which colours the text gives to it there."""

from __future__ import annotations

from collections.abc import Sequence

from stages.wording import lexicon
from stages.wording.colors import ColorWord, color_at, is_shade
from stages.wording.nouns import plural_of
from stages.wording.tokens import Token, tokenize

_MAX_PREDICATE_WORDS = 9
_COPULAS = lexicon.word_set("is are was were looks look appears appear")
_ADVERBS = lexicon.word_set(
    "also all both mostly mainly completely entirely very painted colored coloured a shade of "
    "bright solid"
)
_PLURAL_COPULAS = lexicon.word_set("are were look appear")


def pronoun_colors(text: str) -> tuple[ColorWord, ...]:
    """The colours a text gives to a pronoun ("it is red"), whatever the pronoun refers to."""
    tokens = tokenize(text)
    found: tuple[ColorWord, ...] = ()
    for index in range(1, len(tokens)):
        if tokens[index].lower in _COPULAS and tokens[index - 1].lower in lexicon.PRONOUNS:
            found += predicate_colors(tokens, index + 1)
    return found


def is_subject(tokens: Sequence[Token], first: int) -> bool:
    """Whether the phrase that begins at tokens[first] can be the subject of what follows it.

    Not after a preposition or a verb ("the wheel of the bike is", "a man holding a bat is"), and
    after "and" or a comma only if the clause before has its own verb.
    """
    if first == 0:
        return True
    before = tokens[first - 1].lower
    if before in {",", "and", "or", "but", "&"}:
        start = first - 1
        while start > 0 and tokens[start - 1].text not in ".!?;:":
            start -= 1
        if before == "," and tokens[start].lower in lexicon.PREPOSITIONS | {"yes", "no"}:
            return True
        return any(t.lower in lexicon.COPULAS | lexicon.VERBS for t in tokens[start : first - 1])
    if before == "of" and first > 1 and tokens[first - 2].lower in lexicon.QUANTIFIERS:
        return True  # "most of the horses are"
    return not (
        before in lexicon.PREPOSITIONS - {"as"}
        or before in lexicon.VERBS
        or before in lexicon.HANDLING_WORDS
        or before in lexicon.AUXILIARIES
        or lexicon.is_participle(before)
    )


def predicate_of(tokens: Sequence[Token], first: int, index: int) -> int | None:
    """Index of the copula whose subject is the noun at `index`, in the phrase from `first` on.

    It follows the noun directly ("the stool is"), after "that" or "which", or after phrases that
    only place the noun ("the stool in the corner is"); a comma, a conjunction or another verb in
    between ends the search. None for a verb in the other number: "the cup and the plate are".
    """
    noun = tokens[index].lower
    i = index + 1
    if i < len(tokens) and tokens[i].lower in {"that", "which"}:
        i += 1
        return i if i < len(tokens) and tokens[i].lower in _COPULAS else None
    if not is_subject(tokens, first):
        return None
    copulas = _COPULAS - _PLURAL_COPULAS if plural_of(noun) != noun else _COPULAS
    if i < len(tokens) and tokens[i].lower in _COPULAS:
        return i if tokens[i].lower in copulas else None
    if i >= len(tokens) or tokens[i].lower not in lexicon.PREPOSITIONS:
        return None
    for j in range(i + 1, min(len(tokens), i + _MAX_PREDICATE_WORDS)):
        word = tokens[j].lower
        if word in copulas:
            return j
        if not tokens[j].is_word or word in lexicon.CONJUNCTIONS | lexicon.RELATIVES:
            return None
        if word in lexicon.VERBS or word in lexicon.AUXILIARIES or lexicon.is_participle(word):
            return None
    return None


def predicate_colors(tokens: Sequence[Token], start: int) -> tuple[ColorWord, ...]:
    """The colours at tokens[start] on: "red", "brown and white", "painted dark blue"."""
    i = start
    while i < len(tokens) and (tokens[i].lower in _ADVERBS or is_shade(tokens[i].lower)):
        if tokens[i].lower == "a" and (i + 1 >= len(tokens) or tokens[i + 1].lower != "shade"):
            return ()  # "is a red car"
        i += 1
    found: list[ColorWord] = []
    while i < len(tokens):
        color = color_at(tokens, i)
        if color is None:
            break
        found.append(color)
        i += 1
        joint = i
        while i < len(tokens) and tokens[i].lower in {",", "and", "or"}:
            i += 1
        if i == joint or i >= len(tokens) or not _starts_color(tokens, i):
            i = joint
            break
        if is_shade(tokens[i].lower) and color_at(tokens, i) is None:
            i += 1
    if found and i < len(tokens) and tokens[i].is_word:
        after = tokens[i].lower
        if not lexicon.may_follow_noun(after):
            return ()  # "is red wood", "is white haired"
    return tuple(found)


def _starts_color(tokens: Sequence[Token], index: int) -> bool:
    if color_at(tokens, index) is not None:
        # "is red and white clouds ...": the colour belongs to what follows.
        after = tokens[index + 1].lower if index + 1 < len(tokens) else "."
        return not after[0].isalpha() or lexicon.may_follow_noun(after)
    return is_shade(tokens[index].lower) and (
        index + 1 < len(tokens) and color_at(tokens, index + 1) is not None
    )
