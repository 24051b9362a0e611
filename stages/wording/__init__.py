"""Rules on English answers: pure functions on text, with character offsets.

They are closed word lists and local patterns, not a parser. Each rule says what it accepts, and
rather misses a case than accepts a wrong one: a stage drops a row whose words no rule recognises.
English only; in a text in another language the rules find no mentions, colours, counts or sides.
"""

from stages.wording.colors import ColorWord, color_names, color_words
from stages.wording.counts import counted, number_words, one_more, place_word
from stages.wording.difference import difference, differing_words
from stages.wording.doubts import has_limits, is_part, may_stay, speaks_of_several
from stages.wording.edits import replace_spans
from stages.wording.lexicon import may_follow_noun
from stages.wording.mentions import Mention, find_mentions, label_colors, negated, refers_to
from stages.wording.nouns import (
    head_noun,
    is_plural,
    label_words,
    load_rules,
    plural_of,
    same_noun,
)
from stages.wording.predicates import is_subject, pronoun_colors
from stages.wording.sides import OPPOSITE, SideReading, mirror_sides, read_sides, side_clause
from stages.wording.tokens import Token, tokenize

__all__ = [
    "OPPOSITE",
    "ColorWord",
    "Mention",
    "SideReading",
    "Token",
    "color_names",
    "color_words",
    "counted",
    "difference",
    "differing_words",
    "find_mentions",
    "has_limits",
    "head_noun",
    "is_part",
    "is_plural",
    "is_subject",
    "label_colors",
    "label_words",
    "load_rules",
    "may_follow_noun",
    "may_stay",
    "mirror_sides",
    "negated",
    "number_words",
    "one_more",
    "place_word",
    "plural_of",
    "pronoun_colors",
    "read_sides",
    "refers_to",
    "replace_spans",
    "same_noun",
    "side_clause",
    "speaks_of_several",
    "tokenize",
]
