"""When a text or its annotation leaves room for a second thing of the same name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from stages.wording import lexicon
from stages.wording.mentions import find_mentions, label_colors, refers_to
from stages.wording.nouns import head_noun, is_plural, label_words, same_noun, singular_of
from stages.wording.tokens import tokenize

_IMAGE_OR_STUFF = lexicon.STUFF | lexicon.PICTURE


def has_limits(label: str) -> bool:
    """Whether a label names a thing that a box can hold, not some of the grass or the image."""
    return not _is_any(head_noun(label), _IMAGE_OR_STUFF)


def is_part(noun: str) -> bool:
    """Whether a noun in lower case names a part of other things: "handle"."""
    return _is_any(noun, lexicon.PARTS)


def speaks_of_several(text: str, label: str, attributes: Iterable[str] = ()) -> bool:
    """Whether the text brings up more than one thing that the label fits.

    That is so if two mentions each introduce one ("a brown dog and a white dog"), if one means
    another ("another dog"), or if one shares its words with a noun left out ("a red and a blue
    kite"). Mentions in a colour that the label or the attributes rule out, or of another sort ("hot
    dog"), do not count.
    """
    own = label_colors(label, attributes)
    new = 0
    for mention in find_mentions(text, label):
        if own and mention.colors and not own & mention.color_names:
            continue
        if refers_to(mention, label, attributes):
            new += mention.introduces
        elif (mention.opener is not None and mention.opener.lower in _OTHER) or any(
            token.lower in _OTHER for token in mention.modifiers
        ):
            return True
    return new > 1


def may_stay(text: str, label: str, others: Sequence[str]) -> str | None:
    """Why an image without the labelled thing may still show what its label names; None if not.

    To say that there is none, removing one thing must leave no other: the label must not name a
    part, a kind or the whole image, the answer must not mention several, and no other label
    (`others`) may name the same thing by another word, as "person" does for "man".
    """
    words = label_words(label)
    if not words or any(c.isdigit() for c in label) or "'s" in label or "’s" in label:
        return "the label is not a plain name"
    head = words[-1]
    for nouns, why in (
        (_IMAGE_OR_STUFF, "has no outline"),
        (lexicon.PARTS, "is a part of things"),
        (lexicon.GENERIC, "fits many things"),
    ):
        if _is_any(head, nouns):
            return f'"{head}" {why}'
    mentions = [m for m in find_mentions(text, label) if refers_to(m, label)]
    one = not is_plural(head)
    if any(m.vague or (m.plural and one) for m in mentions) or speaks_of_several(text, label):
        return f'the answer mentions several "{head}"'
    tokens = tokenize(text)
    for i, token in enumerate(tokens):
        last = i + 1 == len(tokens) or lexicon.may_follow_number(tokens[i + 1].lower)
        if token.lower in {"ones", "others"} | lexicon.KIN or (token.lower == "one" and last):
            return f'"{token.text}" may be another "{head}"'
    if _is_any(head, lexicon.PEOPLE):
        said = [t.lower for t in tokens if t.is_word and not same_noun(t.lower, head)]
        heads = [head_noun(other) for other in others]
        for person in (*said, *(h for h in heads if not same_noun(h, head))):
            if _is_any(person, lexicon.PEOPLE) and not _differ(head, person):
                return f'"{person}" may be a "{head}"'
    return None


def _differ(one: str, other: str) -> bool:
    """Whether two words for people exclude each other: "man" and "girl", not "man" and "player"."""
    sexes = [(_is_any(w, lexicon.MALE), _is_any(w, lexicon.FEMALE)) for w in (one, other)]
    ages = [(_is_any(w, lexicon.ADULTS), _is_any(w, lexicon.CHILDREN)) for w in (one, other)]
    return any(any(a) and any(b) and a != b for a, b in (sexes, ages))


def _is_any(noun: str, nouns: frozenset[str]) -> bool:
    return noun in nouns or (singular_of(noun) or noun) in nouns


_OTHER = lexicon.word_set("another other others")
