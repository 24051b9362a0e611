"""Where a text mentions a labelled thing, and what it says of it right there.

Reads the noun phrase leftwards from its head ("two small red stools") and one predicate rightwards
("the stool in the corner is red"). It does not resolve pronouns or "ones", and knows no parts of
speech beyond the lists in `lexicon.py`: a noun right behind the head ("dog bowl") ends the match.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from schemas.records import Span
from stages.wording import lexicon
from stages.wording.colors import ColorWord, color_at, color_names, is_shade
from stages.wording.nouns import head_noun, is_plural, label_words, same_noun
from stages.wording.predicates import predicate_colors, predicate_of
from stages.wording.tokens import Token, tokenize

NUMBERS = {
    word: number
    for number, word in enumerate(
        [
            *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"),
            *("ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen"),
            *("seventeen", "eighteen", "nineteen", "twenty"),
        ]
    )
}
"""Number words and their values."""

_HEDGES = lexicon.word_set(
    "least most than about around under roughly approximately nearly almost or up every "
    "maybe perhaps between number"
)
_MAX_MODIFIERS = 6


@dataclass(frozen=True, slots=True)
class Mention:
    """One place where a text names a thing."""

    index: int
    """Index of the head noun in `tokenize(text)`."""
    noun: Token
    """The head noun as written."""
    plural: bool
    """Whether the head noun is a plural."""
    opener: Token | None
    """The determiner, quantifier or number in front of the phrase."""
    number: int | None
    """The number attached to the noun; 1 for "a"; None without one, or if it is hedged."""
    modifiers: tuple[Token, ...]
    """The words between `opener` and `noun`, in order."""
    colors: tuple[ColorWord, ...]
    """The colours the text gives to the noun, in its phrase or its predicate, in order."""
    partitive: bool
    """Whether it names a whole of which some are meant: "two of the dogs", "most of the dogs"."""
    shared: bool
    """Whether another noun may share its opener or colours ("a red shirt and tie"), or it may share
    those of a noun left out ("a red and a blue kite")."""
    predicate: int | None
    """Index of the "is", "are" ... whose subject the noun is; None if no rule found it."""

    @property
    def span(self) -> Span:
        """The whole phrase, its opener with it."""
        first = self.opener or (self.modifiers[0] if self.modifiers else self.noun)
        return Span(first.start, self.noun.end)

    @property
    def color_names(self) -> frozenset[str]:
        """The basic colours the text gives to the noun."""
        return frozenset(color.name for color in self.colors)

    @property
    def introduces(self) -> bool:
        """Whether the phrase brings up something new ("a dog", "two dogs", "another dog")."""
        opener = self.opener.lower if self.opener else ""
        return self.number is not None or opener in lexicon.ARTICLES | {"another"}

    @property
    def vague(self) -> bool:
        """Whether it hides how many or which: "some dogs", "two of the dogs", "a shirt and tie"."""
        words = {token.lower for token in self.modifiers}
        if self.opener is not None:
            words.add(self.opener.lower)
        return self.partitive or self.shared or bool(words & lexicon.QUANTIFIERS)


@lru_cache(maxsize=1024)
def find_mentions(text: str, label: str) -> tuple[Mention, ...]:
    """All mentions of the head noun of `label` in `text`, in order, in any number or case.

    Left out are matches inside other words, the noun in front of another ("dog bowl" for "dog"),
    and what the text denies ("no dog", "is not holding a dog") or compares with ("like a dog").
    """
    head = head_noun(label)
    if not head:
        return ()
    tokens = tokenize(text)
    own_words = frozenset(label_words(label))
    found = []
    for index, token in enumerate(tokens):
        if token.is_word and same_noun(token.lower, head) and _heads_its_phrase(tokens, index):
            mention = _read(tokens, index, own_words)
            if mention is not None:
                found.append(mention)
    return tuple(found)


def label_colors(label: str, attributes: Iterable[str] = ()) -> frozenset[str]:
    """The basic colours that a region's label and attributes give to it."""
    phrase = " ".join(label_words(label)[:-1])
    return color_names([phrase, *attributes])


def refers_to(mention: Mention, label: str, attributes: Iterable[str] = ()) -> bool:
    """Whether a mention can mean a region with this label and these attributes.

    The head noun agrees, and the colours do not contradict each other: "a tall red stool" cannot
    mean the "yellow stool". "Another stool" and "the other stools" mean something else, and so does
    a "hot dog" for a "dog".
    """
    if not same_noun(mention.noun.lower, head_noun(label)):
        return False
    if mention.opener is not None and mention.opener.lower in {"another", "other", "others"}:
        return False
    if any(token.lower == "other" for token in mention.modifiers):
        return False
    sorts = lexicon.OTHER_SORTS.get(mention.noun.lower, frozenset())
    if sorts & {token.lower for token in mention.modifiers} != sorts & set(label_words(label)):
        return False
    own = label_colors(label, attributes)
    return not own or not mention.colors or bool(own & mention.color_names)


def _heads_its_phrase(tokens: Sequence[Token], index: int) -> bool:
    if index + 1 >= len(tokens) or is_plural(tokens[index].lower):
        return True
    after = tokens[index + 1]
    if not after.is_word:
        return after.text not in {"-", "/"}
    return lexicon.may_follow_noun(after.lower)


def _read(tokens: Sequence[Token], index: int, own_words: frozenset[str]) -> Mention | None:
    first = _phrase_start(tokens, index, own_words)
    opener = _opener(tokens, first)
    before = first - (opener is not None) - 1
    if _denied(tokens, before, opener):
        return None
    noun = tokens[index]
    plural = is_plural(noun.lower)
    modifiers = tuple(t for t in tokens[first:index] if t.is_word and t.lower not in {"and", "or"})
    colors = _phrase_colors(tokens, first, index, own_words)
    predicate = predicate_of(tokens, before + 1, index)
    if predicate is not None:
        colors += predicate_colors(tokens, predicate + 1)
    if own_words & lexicon.PEOPLE and noun.lower not in own_words - lexicon.PEOPLE:
        colors = ()
    colors = _without_names(tokens, index, _without_kinds(noun.lower, colors))
    return Mention(
        index=index,
        noun=noun,
        plural=plural,
        opener=opener,
        number=_number(tokens, before, opener, plural=plural),
        modifiers=modifiers,
        colors=colors,
        partitive=_partitive(tokens, before, opener),
        shared=_shared(tokens, before + 1, index),
        predicate=predicate,
    )


def _phrase_start(tokens: Sequence[Token], index: int, own_words: frozenset[str]) -> int:
    """Index of the first modifier of the noun at `index`; `index` itself without one."""
    first = index
    while first > 0 and index - first < _MAX_MODIFIERS:
        if _joins(tokens, first - 1) and first < index:
            first -= 2
        elif _is_modifier(tokens, first - 1, own_words):
            first -= 1
        else:
            break
    return first


def _is_modifier(tokens: Sequence[Token], index: int, own_words: frozenset[str]) -> bool:
    token = tokens[index]
    word = token.lower
    if not token.is_word or word[0].isdigit() or word in NUMBERS:
        return False
    if word in own_words or word in {"single", "other"} or _is_adjective(tokens, index):
        return True
    if word in _OPENERS or word in _CLOSED or (word in lexicon.VERBS and index > 0):
        return False
    if word.endswith("ing"):
        # "a jumping cat", but "a man holding cats".
        return index == 0 or tokens[index - 1].lower in _OPENERS | NUMBERS.keys()
    return not word.endswith(("'s", "’s"))


def _joins(tokens: Sequence[Token], index: int) -> bool:
    """Whether tokens[index] joins two adjectives: "brown and white corgi", "tall, red stool"."""
    return (
        index > 0
        and tokens[index].lower in {",", "and", "or", "&"}
        and _is_adjective(tokens, index - 1)
        and _is_adjective(tokens, index + 1)
    )


def _is_adjective(tokens: Sequence[Token], index: int) -> bool:
    word = tokens[index].lower
    return word in lexicon.ADJECTIVES or is_shade(word) or color_at(tokens, index) is not None


def _opener(tokens: Sequence[Token], first: int) -> Token | None:
    if first == 0:
        return None
    token = tokens[first - 1]
    word = token.lower
    if word in _OPENERS or word in NUMBERS or word.isdecimal() or word.endswith(("'s", "’s")):
        return token
    return None


def _denied(tokens: Sequence[Token], before: int, opener: Token | None) -> bool:
    if opener is not None and opener.lower in {"no", "neither"}:
        return True
    if before < 0:
        return False
    if tokens[before].lower in {"like", "resembling", "resembles"}:
        return True
    return negated(tokens, before + 1, listed=opener is None)


def negated(tokens: Sequence[Token], first: int, *, listed: bool = False) -> bool:
    """Whether a "not" or "no" in front of tokens[first] may reach it: "is not wearing a red hat".

    A full stop, "but", "and", "while" and the comma after a "No," end its reach; any other comma
    does too, unless "or" follows or (`listed`) the phrase continues as a list: "no dogs, cats".
    """
    acts = False
    for i in range(first - 1, -1, -1):
        word = tokens[i].lower
        if word in {"without", "lacking"} and acts:
            return False  # "a man without a hat rides a red bike"
        acts = acts or word in lexicon.BASE_OF_VERB
        if word in lexicon.NEGATIONS or word.endswith(("n't", "n’t")) or word == "cannot":
            return True
        if word in _END_OF_DENIAL or tokens[i].text in ".!?;:":
            return False
        if word == "," and tokens[i + 1].lower not in {"or", "nor"}:
            answer = i > 0 and tokens[i - 1].lower == "no"
            listing = listed and tokens[first - 1].lower in {",", "or", "nor"}
            words = {token.lower for token in tokens[i + 1 : first]}
            if answer or not listing or words & (lexicon.VERBS | _CLOSED - {"or", "nor"}):
                return False
    return False


_SIZES = lexicon.word_set("big large little long old short small tall young")
_END_OF_DENIAL = lexicon.word_set("but and while only although though because where when")


def _shared(tokens: Sequence[Token], first: int, index: int) -> bool:
    """Whether the phrase from `first` to its noun at `index` is joined with one cut short."""
    joints = {"and", "or", "&"}
    if index + 2 < len(tokens) and tokens[index + 1].lower in joints:
        after = tokens[index + 2]
        word = after.lower
        own = word in NUMBERS or word in _OPENERS or word.endswith(("'s", "’s"))
        if after.is_word and not own and color_at(tokens, index + 2) is None:
            return not lexicon.may_follow_noun(word)
    if first < 3 or tokens[first - 1].lower not in joints:
        return False
    i = first - 2
    # Not any adjective: "a square and a red cup" leaves nothing out.
    while i > 0 and (color_at(tokens, i) is not None or tokens[i].lower in _SIZES):
        i -= 1
    return i < first - 2 and tokens[i].lower in _OPENERS | NUMBERS.keys()


def _partitive(tokens: Sequence[Token], before: int, opener: Token | None) -> bool:
    if opener is None or before < 1 or tokens[before].lower != "of":
        return False
    word = tokens[before - 1].lower
    return word in lexicon.QUANTIFIERS or word in NUMBERS or word.isdecimal()


def _number(
    tokens: Sequence[Token], before: int, opener: Token | None, *, plural: bool
) -> int | None:
    if opener is None or (before >= 0 and tokens[before].lower in _HEDGES):
        return None
    word = opener.lower
    if word in lexicon.ARTICLES:
        return None if plural else 1
    if word.isdecimal():
        # A decimal ("1.5 dogs") or a list ("1, 2 dogs") is not a count.
        before_is_word = before < 0 or tokens[before].is_word or tokens[before].text in "(:;\"'"
        sentence = (
            before >= 0 and tokens[before].text in ".!?" and tokens[before].end < opener.start
        )
        number = int(word) if before_is_word or sentence else None
    else:
        number = NUMBERS.get(word)
    if number is None or (number == 1) == plural:
        return None
    return number


def _phrase_colors(
    tokens: Sequence[Token], first: int, index: int, own_words: frozenset[str]
) -> tuple[ColorWord, ...]:
    """The colours before the noun, without those that may belong to a noun in between."""
    found: list[ColorWord] = []
    for i in range(index - 1, first - 1, -1):
        color = color_at(tokens, i)
        if color is not None:
            found.insert(0, color)
        elif not (
            _is_adjective(tokens, i)
            or tokens[i].lower in own_words
            or tokens[i].lower in {",", "and", "or", "&"}
            or tokens[i].lower.endswith(("ed", "ing"))
        ):
            break  # "white wine glass": the wine is white
    return tuple(found)


def _without_names(
    tokens: Sequence[Token], index: int, colors: tuple[ColorWord, ...]
) -> tuple[ColorWord, ...]:
    """The colours that are not part of a name: "the White House"."""
    if not tokens[index].text[0].isupper():
        return colors
    names = {
        word.start
        for i, word in enumerate(tokens[:index])
        if i > 0
        and tokens[i - 1].text not in ".!?:"
        and word.text[0].isupper()
        and not word.text.isupper()
    }
    return tuple(color for color in colors if color.span.start not in names)


def _without_kinds(noun: str, colors: tuple[ColorWord, ...]) -> tuple[ColorWord, ...]:
    for kind, names in lexicon.COLOR_NAMES_OF_KINDS.items():
        if same_noun(kind, noun):
            return tuple(color for color in colors if color.name not in names)
    return colors


_OPENERS = lexicon.DETERMINERS | lexicon.QUANTIFIERS | frozenset({"each", "every"})
_CLOSED = (
    lexicon.PREPOSITIONS
    | lexicon.CONJUNCTIONS
    | lexicon.RELATIVES
    | lexicon.AUXILIARIES
    | lexicon.PRONOUNS
    | lexicon.NEGATIONS
)
