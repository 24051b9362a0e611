"""Answers to tokens and spans to masks, by hand, for both sorts of tokenizers."""

from __future__ import annotations

import pytest

from fakes.tiny.vlm import byte_level_tokenizer, sentencepiece_tokenizer
from schemas.records import Span
from trainer.families.answers import answer_tokens, marked_by


@pytest.fixture(scope="module")
def byte_level():
    return byte_level_tokenizer()


@pytest.fixture(scope="module")
def sentencepiece():
    return sentencepiece_tokenizer()


def shown(tokenizer, text, *spans):
    """Tokens as text, those that are marked in brackets."""
    end = tokenizer.eos_token_id
    found = answer_tokens(tokenizer, text, [Span(*s) for s in spans], end)
    assert found.ids[-1] == end
    assert not found.marked[-1]
    names = tokenizer.convert_ids_to_tokens(found.ids[:-1].tolist())
    return [f"[{n}]" if m else n for n, m in zip(names, found.marked, strict=False)]


def test_byte_level_pieces_carry_their_space(byte_level):
    text = "The ring is purple."
    assert shown(byte_level, text, (12, 18)) == ["The", "Ġring", "Ġis", "[Ġpurple]", "."]
    assert shown(byte_level, text, (4, 8), (18, 19)) == ["The", "[Ġring]", "Ġis", "Ġpurple", "[.]"]
    # One character of a piece is enough; the space before a word belongs to the word's piece.
    assert shown(byte_level, text, (17, 18)) == ["The", "Ġring", "Ġis", "[Ġpurple]", "."]
    assert shown(byte_level, text, (0, 3)) == ["[The]", "Ġring", "Ġis", "Ġpurple", "."]


def test_sentencepiece_pieces_and_the_space_it_adds_in_front(sentencepiece):
    text = "The ring is purple."
    assert shown(sentencepiece, text, (0, 1)) == ["[▁The]", "▁ring", "▁is", "▁purple", "."]
    assert shown(sentencepiece, text, (12, 18)) == ["▁The", "▁ring", "▁is", "[▁purple]", "."]
    # No token at the start, as a prompt has.
    assert shown(sentencepiece, "The") == ["▁The"]


def test_a_character_of_several_bytes_counts_with_all_of_them(byte_level, sentencepiece):
    text = "is 猫."
    for tokenizer, piece in ((byte_level, "Ġ"), (sentencepiece, "▁")):
        names = shown(tokenizer, text, (3, 4))
        assert [n.startswith("[") for n in names[-5:]] == [False, True, True, True, False]
        assert names[-5] == piece


def test_a_composed_character_keeps_its_place(byte_level):
    """The tokenizer composes e + accent; spans count the characters of the text as it is."""
    text = "cafe\u0301 red"
    names = shown(byte_level, text, (6, 9))
    assert [n for n in names if n.startswith("[")] == ["[Ġre]", "[d]"]


def test_what_looks_like_a_special_token_is_text(byte_level, sentencepiece):
    for tokenizer, special in ((byte_level, "<|im_end|>"), (sentencepiece, "</s>")):
        found = answer_tokens(tokenizer, f"a {special} b", [], tokenizer.eos_token_id)
        assert (found.ids == tokenizer.eos_token_id).sum() == 1
        # ... in this call alone: prompts are full of them.
        assert tokenizer(special, add_special_tokens=False)["input_ids"] == [tokenizer.eos_token_id]


def test_without_spans_nothing_is_marked_and_an_empty_answer_is_its_end(byte_level):
    assert not answer_tokens(byte_level, "The ring", [], 2).marked.any()
    assert answer_tokens(byte_level, "", [], 2).ids.tolist() == [2]


def test_overlap_is_half_open():
    offsets = [(0, 3), (3, 3), (3, 5), (5, 9)]
    assert marked_by(offsets, [Span(3, 5)]).tolist() == [False, False, True, False]
    assert marked_by(offsets, [Span(2, 6)]).tolist() == [True, False, True, True]
    assert marked_by(offsets, [Span(0, 1), Span(8, 9)]).tolist() == [True, False, False, True]
