import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stages.wording.sentences import split_sentences, split_to_fit


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("A dog runs.", ["A dog runs."]),
        ("No full stop", ["No full stop"]),
        ("A dog runs. A cat sleeps! Why? Nobody knows…", None),
        ("The sign says 3.5 km. It is red.", ["The sign says 3.5 km.", "It is red."]),
        ("It costs $1,299.99. Cheap.", ["It costs $1,299.99.", "Cheap."]),
        ("Mr. Smith and Dr. Jones wave. They smile.", 2),
        ("Fruit, e.g. Apples, is on the table. It is fresh.", 2),
        ("There are cars, buses, etc. on the road. It is busy.", 2),
        ("There are cars, buses, etc. The road is busy.", 2),
        ("The clock shows 5 p.m. The street is empty.", 2),
        ("The clock shows 5 p.m. and the street is empty.", 1),
        ("The flag of the U.S. Army hangs left. It is torn.", 2),
        ("The flag is that of the U.S. The pole is white.", 2),
        ("It was drawn by J. A. Smith. So was I. They liked it.", 3),
        ("Wow! . Next one.", ["Wow! .", "Next one."]),
        ("Bus No. 5 stops. It is full.", 2),
        ("Is there a dog? No. There is a cat.", 3),
        ("J. Smith wrote it. A. B. Miller drew it.", 2),
        ("There is only plan B. The men leave.", 2),
        ("There are 3. The last is red.", 2),
        ('He says "Stop!" and waves. "Go." He goes.', 3),
        ("It reads (in red.) Then it ends.", 2),
        ("Wait... what is that? A bird.", 2),
        ("Really?! Yes.", 2),
        ("Visit www.example.com. It is free.", 2),
        ("A man stands at the left. he wears a hat.", 1),
        ("Ein Satz. Ölfarbe trocknet. 3 Hunde bellen.", 3),
        ("", []),
        (" \n\t ", []),
        ("...", []),
    ],
)
def test_sentences(text, sentences):
    found = split_sentences(text)
    if isinstance(sentences, list):
        assert found == sentences
    elif sentences is not None:
        assert len(found) == sentences, found
    # No word is lost or changed.
    if found:
        assert " ".join(found) == " ".join(text.split())


def test_lists_headings_and_paragraphs_are_split_at_their_lines():
    text = (
        "## The scene\n"
        "The image shows a kitchen\nwith a table. It holds:\n"
        "- a red cup\n"
        "* two plates of 12.5 cm\n"
        "1. A fork\n"
        "2) a knife\n"
        "(b) a spoon\n"
        "\n"
        "A second paragraph\n"
        "\n"
        "---\n"
        "**Bold end.** Last."
    )
    assert split_sentences(text) == [
        "The scene",
        "The image shows a kitchen with a table.",
        "It holds:",
        "a red cup",
        "two plates of 12.5 cm",
        "A fork",
        "a knife",
        "a spoon",
        "A second paragraph",
        "**Bold end.**",
        "Last.",
    ]


@given(st.text(alphabet='ab AI.!? \n-1,"(', max_size=60))
def test_no_letter_is_lost(text):
    found = " ".join(split_sentences(text))
    # Markers of lists are left out: they are numbers or single letters before a mark.
    kept = re.sub(r"[^a-zA-Z]", "", found)
    assert len(kept) >= len(re.sub(r"[^a-zA-Z]", "", text)) - text.count("\n") - 1 - text.count(".")
    assert all(sentence.strip() == sentence and sentence for sentence in split_sentences(text))


def at_most(words):
    return lambda text: len(text.split()) <= words and len(text) <= 12 * words


def test_a_sentence_that_fits_is_left():
    assert split_to_fit("one, two", at_most(2)) == ["one, two"]


def test_a_long_sentence_is_cut_at_clauses_and_packed():
    sentence = "a red cup stands left, two plates lie behind it, and a cat which is black sleeps"
    assert split_to_fit(sentence, at_most(10)) == [
        "a red cup stands left, two plates lie behind it,",
        "and a cat which is black sleeps",
    ]


def test_a_long_clause_is_cut_between_words_and_a_long_word_between_letters():
    assert split_to_fit("a b c d e f g", at_most(3)) == ["a b c", "d e f", "g"]
    pieces = split_to_fit("x" * 50 + " end", at_most(2))
    assert all(at_most(2)(piece) for piece in pieces)
    assert "".join(pieces).replace(" ", "") == "x" * 50 + "end"


def test_a_limit_that_nothing_meets_is_trouble():
    with pytest.raises(ValueError, match="not even 'a' fits"):
        split_to_fit("abc", lambda _: False)


@given(
    st.lists(st.sampled_from(["dog", "red,", "and;", "which—big:", "the", "with"]), min_size=1),
    st.data(),
)
def test_pieces_hold_all_words_in_order_and_fit(words, data):
    fits = at_most(data.draw(st.integers(1, 9)))
    sentence = " ".join(words)
    pieces = split_to_fit(sentence, fits)
    assert " ".join(pieces).split() == sentence.split()
    assert all(fits(piece) for piece in pieces)
