"""Numbers attached to a noun, and the same text with one more of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from schemas.records import Span
from stages.wording import lexicon
from stages.wording.colors import color_at
from stages.wording.edits import replace_spans
from stages.wording.mentions import NUMBERS, Mention
from stages.wording.nouns import PLURAL_ONLY, plural_of, same_noun
from stages.wording.predicates import is_subject
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
    """The one mention that says how many there are, or the reason why none can be trusted.

    `mentions` are all of the noun, except those of another colour or sort. Trusted are a number
    word, digits, or "a" for one, in the noun's own phrase. Not trusted: several numbers, "some",
    "both", "another", "a single", "two of the", a phrase that only says what something is ("it is a
    dog"), and a text that then mentions one or each of them, or uses verbs that no rule knows.
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
    if first > 0 and tokens[first - 1].lower in lexicon.SOLITARY | {"just", "exactly"}:
        return "it is said to be alone"
    return _goes_on(text, tokens, mentions, mention) or mention


def _goes_on(
    text: str, tokens: Sequence[Token], mentions: Sequence[Mention], mention: Mention
) -> str | None:
    """Something else in the text that one more of the noun would make wrong; None if nothing is."""
    own = {t for m in mentions for t in (*m.modifiers, m.opener)}
    for i, token in enumerate(tokens):
        if token in own:
            continue
        alone = i + 1 == len(tokens) or lexicon.may_follow_number(tokens[i + 1].lower)
        if token.lower in _SHARING or (token.lower in {"one", "two"} and alone):
            return f'"{token.text}" refers to some of them'
    if mention.plural:
        after = tokens[mention.index + 1 : mention.index + 3]
        listed = len(after) == 2 and after[0].text in {",", ":"} and _opens(after[1])
        return "they may be named one by one" if listed else None
    if mention.opener is not None and mention.opener.lower in lexicon.ARTICLES:
        if tokens[0].lower in {"yes", "no"}:
            return "a yes or no would be true of two as well"
        if text.rstrip().endswith("?"):
            return "it is asked for"
    edits = _edits(tokens, mentions, mention)
    for token in tokens[mention.index + 1 :]:
        if token.lower in _SINGULAR_PRONOUNS and _span(token) not in edits:
            return f'"{token.text}" may refer to it'
    for each in mentions:
        wrong = _singular_verb(tokens, each, edits)
        if wrong is not None:
            return f'it may be the subject of "{wrong}"'
    return None


def _opens(token: Token) -> bool:
    return token.lower in lexicon.DETERMINERS | NUMBERS.keys()


def _singular_verb(
    tokens: Sequence[Token], mention: Mention, edits: Mapping[Span, str]
) -> str | None:
    """A word after the noun that may be a singular verb and would stay singular."""
    if not is_subject(tokens, _first_index(tokens, mention)):
        return None
    found = False
    for i in range(mention.index + 1, len(tokens)):
        before, word = tokens[i - 1].lower, tokens[i].lower
        clause = found and before in {"and", ",", "but"} and (_opens(tokens[i]) or word == "there")
        if tokens[i].text in ".!?;:" or word in _SUBORDINATORS or clause:
            return None
        if _span(tokens[i]) in edits:
            found = True
        elif word in lexicon.BASE_OF_VERB:
            if before not in lexicon.RELATIVES:
                return tokens[i].text
        elif before in {"and", "but", ","} or not found:
            # Any word in "s" without a word in front that makes it a noun: "and sings".
            ending = word.endswith("s") and not word.endswith(("ss", "'s", "us")) and len(word) > 3
            noun = _opens(tokens[i - 1]) or before in lexicon.ADJECTIVES | lexicon.PREPOSITIONS
            if ending and not noun and color_at(tokens, i - 1) is None:
                return tokens[i].text
    return None


_SHARING = lexicon.word_set("each both other others another ones together latter former")
_SINGULAR_PRONOUNS = lexicon.word_set(
    "it he she him her his hers its itself himself herself this that's it's he's she's it’s he’s "
    "she’s"
)
_SUBORDINATORS = lexicon.word_set("while when as because where although though whereas")


def place_word(text: str, mention: Mention) -> str | None:
    """The word that ties the noun to a place or thing that a copy elsewhere would lack; or None.

    In the noun's sentence: any word of position or nearness ("next to", "in the middle"); a
    preposition or verb whose object the noun is ("a vase with two flowers"); after the noun, a
    preposition of place, unless it names a ground that the copy stands on too ("on the grass", not
    "in the vase"), and a verb with an object, which the copy would lack ("holds a").
    """
    tokens = tokenize(text)
    start, end = _first_index(tokens, mention), mention.index + 1
    first, last = start, mention.index
    while first > 0 and tokens[first - 1].text not in ".!?;":
        first -= 1
    while last + 1 < len(tokens) and tokens[last + 1].text not in ".!?;":
        last += 1
    for i in range(first, last + 1):
        word = tokens[i].lower
        if word in lexicon.PLACE_WORDS or (i < mention.index and word in lexicon.HANDLING_WORDS):
            return tokens[i].text
    if start > first and _governs(tokens, start - 1):
        return tokens[start - 1].text
    for i in range(end, last + 1):
        if start > first and tokens[start - 1].lower == "of" and _finite(tokens[i]):
            return tokens[start - 1].text  # "an image of a cat hangs": the cat is inside it
        if _ties(tokens, i):
            return tokens[i].text
    return None


def _finite(token: Token) -> bool:
    return token.lower in lexicon.BASE_OF_VERB


def _governs(tokens: Sequence[Token], index: int) -> bool:
    """Whether the noun after tokens[index] is the object of a preposition or verb."""
    word = tokens[index].lower
    if word == "of":
        # "a photo of two dogs", "a group of two dogs"; not "a vase of two flowers".
        whole = tokens[index - 1].lower if index > 0 else ""
        return whole not in lexicon.PICTURE | {"group", "total", "herd", "flock"}
    if word in lexicon.PREPOSITIONS:
        return True
    if word in lexicon.COPULAS | _SHOWING | _INVERTED:
        return False
    return word in lexicon.VERBS or lexicon.is_participle(word)


def _ties(tokens: Sequence[Token], index: int) -> bool:
    """Whether tokens[index], after a noun, ties it to a thing."""
    word = tokens[index].lower
    if index + 1 == len(tokens) or not tokens[index + 1].is_word:
        return False  # "with its tongue out."
    if word in lexicon.PREPOSITIONS - _NO_PLACE:
        return not _ground(tokens, index + 1)
    if word in lexicon.AUXILIARIES | _OWN:
        return False
    after = tokens[index + 1]
    verb = word in lexicon.VERBS or lexicon.is_participle(word)
    if verb and (_opens(after) or after.lower in lexicon.QUANTIFIERS):
        return True
    free = lexicon.PREPOSITIONS | lexicon.CONJUNCTIONS
    return word in lexicon.HANDLING_WORDS and after.is_word and after.lower not in free


def _ground(tokens: Sequence[Token], index: int) -> bool:
    """Whether the phrase at tokens[index] ends in a ground, a garment or a colour."""
    last = index
    while last < len(tokens) and tokens[last].is_word and not _ends_phrase(tokens, last, index):
        last += 1
    if last == index:
        return False
    if color_at(tokens, index) is not None and last == index + 1:
        return True
    head = tokens[last - 1].lower
    return any(same_noun(head, ground) for ground in lexicon.GROUNDS | lexicon.CLOTHES)


def _ends_phrase(tokens: Sequence[Token], index: int, first: int) -> bool:
    word = tokens[index].lower
    closed = lexicon.PREPOSITIONS | lexicon.CONJUNCTIONS | lexicon.AUXILIARIES | lexicon.RELATIVES
    if word in closed:
        return True
    return index > first + 1 and (word in lexicon.VERBS or lexicon.is_participle(word))


_SHOWING = lexicon.word_set(
    "shows show showing features feature featuring depicts depicting contains containing includes "
    "including captures capturing displays displaying"
)
_NO_PLACE = lexicon.word_set("of with without about as like during for until via")
_OWN = lexicon.word_set("wear wears wearing worn made")


def one_more(text: str, mentions: Sequence[Mention], mention: Mention) -> str:
    """The text with the number of `mention` raised by one.

    From one to two, every mention of the noun becomes plural, and with it the verb right after it
    or its predicate ("a dog in the grass is" to "two dogs in the grass are"), "there is", and an
    "its" in the same sentence if the noun opens that sentence.
    """
    return replace_spans(text, _edits(tokenize(text), mentions, mention).items())


def _edits(
    tokens: Sequence[Token], mentions: Sequence[Mention], mention: Mention
) -> dict[Span, str]:
    assert mention.opener is not None
    assert mention.number is not None
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
    return edits


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
        elif not is_subject(tokens, _first_index(tokens, mention)):
            return {}
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
