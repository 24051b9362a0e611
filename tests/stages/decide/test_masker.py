from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.records import (
    Candidate,
    Contrast,
    Drop,
    Image,
    Kind,
    Reason,
    Seed,
    Verdict,
    VerifiedCandidate,
)
from stages.decide.masker import Masker
from stages.wording import difference, tokenize


def verified(chosen, counterfactual, rejected=None):
    image = Image(b"")
    seed = Seed("s", 0, image, 4, 4, "What?", chosen, rejected, (), "test", None)
    contrast = Contrast(Kind.OBJECT, "dog", None, "remove the dog")
    candidate = Candidate(seed, contrast, (), image, image, counterfactual, {})
    return VerifiedCandidate(candidate, {}, Verdict(accepted=True, verifier="test", detail=""))


def words(text, spans):
    return [text[s.start : s.end] for s in spans]


@pytest.mark.parametrize(
    ("one", "other", "in_one", "in_other"),
    [
        ("A red cup.", "A blue cup.", ["red"], ["blue"]),
        ("A dog is here.", "Two dogs are here.", ["A dog is"], ["Two dogs are"]),
        ("A red cup.", "A cup.", ["red"], ["A cup"]),
        ("A cup.", "A red cup.", ["A cup"], ["red"]),
        ("A cup", "A cup stands", ["cup"], ["stands"]),
        ("Here, a cup", "a cup", ["Here,"], ["a"]),
        ("left cat, right dog", "right cat, left dog", ["left", "right"], ["right", "left"]),
        ("a \U0001f600 caf\u00e9", "a \U0001f600 cafe\u0301s", ["caf\u00e9"], ["cafe\u0301s"]),
    ],
)
def test_the_words_that_differ(one, other, in_one, in_other):
    (outcome,) = Masker().process_one(verified(one, other))
    assert words(one, outcome.chosen_spans) == in_one
    assert words(other, outcome.counterfactual_spans) == in_other


def test_without_a_counterfactual_there_are_no_spans():
    (outcome,) = Masker().process_one(verified("A cup.", None))
    assert (outcome.chosen_spans, outcome.counterfactual_spans) == ((), ())
    assert outcome.rejected_spans is None


@pytest.mark.parametrize("counterfactual", [None, "A jug."])
def test_the_wrong_answer_is_marked_against_the_chosen_one(counterfactual):
    text = "A blue cup."
    (outcome,) = Masker().process_one(verified("A red cup.", counterfactual, text))
    assert words(text, outcome.rejected_spans) == ["blue"]
    (outcome,) = Masker().process_one(verified("A red cup.", counterfactual, "A  red cup!"))
    assert outcome.rejected_spans == ()


@pytest.mark.parametrize("other", ["A cup.", "A  cup", "A cup!"])
def test_the_same_words_are_dropped(other):
    outcome = Masker().process_one(verified("A cup.", other))
    assert isinstance(outcome, Drop)
    assert outcome.reason == Reason.NO_TEXT_DIFFERENCE


def test_frequent_words_of_a_long_text_are_not_noise():
    one = "the cat and the dog " * 100
    spans = difference(one + "red", one + "blue")
    assert spans is not None
    assert words(one + "red", spans[0]) == ["red"]


TEXT = st.lists(st.sampled_from(["a", "b", "c", "dé", ",", ".", "\u732b"]), max_size=10).map(
    " ".join
)


@given(TEXT | st.text(max_size=20), TEXT | st.text(max_size=20))
def test_spans_are_sorted_disjoint_and_at_word_boundaries(one, other):
    spans = difference(one, other)
    if spans is None:
        return
    for text, marks in zip((one, other), spans, strict=True):
        tokens = tokenize(text)
        assert bool(marks) == bool(tokens)
        edges = [0, *(edge for mark in marks for edge in mark), len(text)]
        assert edges == sorted(edges)
        assert all(a.end < b.start for a, b in pairwise(marks))
        assert {m.start for m in marks} <= {t.start for t in tokens}
        assert {m.end for m in marks} <= {t.end for t in tokens}
        assert all(m.start < m.end for m in marks)


@given(st.lists(st.booleans(), min_size=1, max_size=12))
def test_without_the_replaced_words_the_texts_are_equal(swaps):
    one = " ".join(f"w{i}" for i in range(len(swaps)))
    other = " ".join(f"W{i}" if swap else f"w{i}" for i, swap in enumerate(swaps))
    spans = difference(one, other)
    if spans is None:
        assert one == other
        return
    rests = []
    for text, marks in zip((one, other), spans, strict=True):
        for mark in reversed(marks):
            text = text[: mark.start] + text[mark.end :]  # noqa: PLW2901
        rests.append(text)
    assert rests[0] == rests[1]
