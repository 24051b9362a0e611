"""English text to sentences, and sentences to pieces that fit a limit. Changes no word.

Answers to questions about images are prose or short lists, sometimes with Markdown. Cutting one
sentence in two costs more than leaving two together: a fragment ("Mr.") matches no image.
"""

from __future__ import annotations

import re
from collections.abc import Callable

# fmt: off
_NEVER_LAST = frozenset({
    "mr", "mrs", "ms", "dr", "prof", "st", "mt", "sr", "rev", "gen", "capt", "col", "lt", "sgt",
    "fig", "figs", "eq", "vs", "e.g", "i.e", "cf", "viz", "approx", "ca", "resp", "al",
})
"""Abbreviations that never end a sentence."""

_BEFORE_NUMBER = frozenset({"no", "nos", "p", "pp", "vol", "ch", "sec", "art"})
"""Abbreviations only before a number ("No. 5"), otherwise words ("No. There is none.")."""

_OPENERS = frozenset({
    "a", "an", "the", "this", "that", "these", "those", "there", "here", "it", "its", "he", "his",
    "she", "her", "they", "their", "we", "you", "i", "one", "two", "three", "some", "many", "most",
    "both", "each", "another", "no", "in", "on", "at", "to", "from", "with", "behind", "above",
    "below", "under", "next", "near", "and", "but", "so", "while", "however", "overall",
    "additionally", "also", "other", "yes",
})
"""Words that open sentences but not names: before them, "U.S." or "plan B." ends a sentence."""
# fmt: on

_END = re.compile(
    r"""[.!?…]+          # what ends a sentence
        [\"'”’)\]*_]*    # quotes, brackets and emphasis that close with it
        (?=\s)""",
    re.VERBOSE,
)
_OPENING = "\"'“‘([*_"
_INITIALS = re.compile(r"(?:[A-Z]\.)*[A-HJ-Z]|(?:[A-Z]\.)+I")
"""One capital (except the word "I"), or several with dots between them, without the last dot."""
_MARKER = re.compile(r"^\s*(?:[-*•‣–]\s+|\(?\d{1,3}[.)]\s+|\(?[a-z][.)]\s+|\#{1,6}\s+|>\s+)+")
"""Marks that open a list item, a heading or a quotation."""

_CLAUSE = re.compile(
    r"""(?<=[;:,])\s+                   # after a mark inside a sentence
      | \s+(?=[–—]\s)                   # before a dash
      | \s+(?=(?:and|but|while|whereas|which|who|where|because|although|with)\s)""",
    re.VERBOSE | re.IGNORECASE,
)


def split_sentences(text: str) -> list[str]:
    """The sentences of an English text in order, with single spaces; [] if there are none.

    List items, headings and paragraphs are separate sentences, without their markers. No sentence
    ends inside a number, after an abbreviation that needs a continuation, or before a word in lower
    case.
    """
    return [sentence for block in _blocks(text) for sentence in _split_block(block)]


def split_to_fit(sentence: str, fits: Callable[[str], bool]) -> list[str]:
    """The sentence, with all its words, in as few fitting pieces as its clauses allow.

    Clauses are packed together in order; one that does not fit alone is cut between words, and a
    word that does not fit is cut between letters. ValueError if not even one letter fits.
    """
    if fits(sentence):
        return [sentence]
    pieces: list[str] = []
    for clause in _CLAUSE.split(sentence):
        pieces += [clause] if fits(clause) else _packed(_words_that_fit(clause, fits), fits)
    return _packed(pieces, fits)


def _blocks(text: str) -> list[str]:
    """Paragraphs and list items; a wrapped line is joined to the one before."""
    blocks: list[str] = []
    open_block = False
    for line in text.splitlines():
        marker = _MARKER.match(line)
        content = " ".join(line[marker.end() if marker else 0 :].split())
        if not any(letter.isalnum() for letter in content):
            open_block = False
            continue
        wraps = open_block and marker is None and not _END.search(blocks[-1][-3:] + " ")
        if wraps:
            blocks[-1] += " " + content
        else:
            blocks.append(content)
        heading = marker is not None and "#" in marker.group()
        open_block = not heading
    return blocks


def _split_block(block: str) -> list[str]:
    sentences, start = [], 0
    for match in _END.finditer(block):
        if _is_end(block[start : match.end()], block[match.end() :].lstrip(), match.group()):
            sentences.append(block[start : match.end()].strip())
            start = match.end()
    rest = block[start:].strip()
    # What has no letter ("...", a closing quote) belongs to the sentence before.
    if rest and any(letter.isalnum() for letter in rest):
        sentences.append(rest)
    elif rest and sentences:
        sentences[-1] += " " + rest
    return sentences


def _is_end(before: str, after: str, mark: str) -> bool:
    """Whether the sentence ends between the two."""
    opening = after.lstrip(_OPENING)
    if opening[:1].islower() or not opening[:1].isalnum():
        return False
    if not mark.startswith(".") or mark.startswith(".."):
        return True
    words = before[: -len(mark)].split()
    if not words:
        return True
    word, following = words[-1].lstrip(_OPENING), opening.split()[0]
    if word.lower() in _NEVER_LAST:
        return False
    if word.lower() in _BEFORE_NUMBER:
        return not following[0].isdigit()
    if _INITIALS.fullmatch(word):
        return following.rstrip(",").lower() in _OPENERS
    return True


def _words_that_fit(clause: str, fits: Callable[[str], bool]) -> list[str]:
    return [piece for word in clause.split() for piece in _letters_that_fit(word, fits)]


def _letters_that_fit(word: str, fits: Callable[[str], bool]) -> list[str]:
    if fits(word):
        return [word]
    if len(word) < 2:
        raise ValueError(f"not even {word!r} fits the text model's limit of tokens")
    middle = len(word) // 2
    return _letters_that_fit(word[:middle], fits) + _letters_that_fit(word[middle:], fits)


def _packed(pieces: list[str], fits: Callable[[str], bool]) -> list[str]:
    """Neighbours joined by a space while they fit."""
    packed: list[str] = []
    for piece in pieces:
        if packed and fits(joined := f"{packed[-1]} {piece}"):
            packed[-1] = joined
        else:
            packed.append(piece)
    return packed
