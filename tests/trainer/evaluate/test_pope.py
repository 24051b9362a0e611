"""POPE questions on hand-made regions, and their scores by hand."""

from __future__ import annotations

from collections import Counter

import pytest

from trainer.evaluate.pope import QuestionSet, Scene, phrase, questions, score
from trainer.losses.views import Images


def scene(name, labels, text, *, kind="object", replacement=None, image=None):
    return Scene(name, image or f"image of {name}", kind, replacement, tuple(labels), text)


def negatives(found, by):
    return [q.thing for q in found if q.chosen_by is by and not q.answer]


SCENES = [
    scene("a", ["red stool"], "A red stool stands by the table."),
    scene("b", ["table"], "A table with a lamp.", image="image of a"),
    scene("c", ["table"], "A table."),
    scene("d", ["lamp"], "A lamp on a table."),
    scene("e", ["shoes"], "Shoes."),
    scene("f", ["table"], "A table and shoes.", kind="count"),
    scene("g", [], "A street.", kind="crop"),
]


def asked(by, **more):
    found = [q for q in questions(SCENES) if q.chosen_by is by]
    return [q for q in found if all(getattr(q, key) == value for key, value in more.items())]


def test_what_was_removed_is_asked_of_both_images():
    pair = asked(QuestionSet.REMOVED, pair_id="a")
    assert [(q.shown, q.answer, q.thing) for q in pair] == [
        (Images.CHOSEN, True, "red stool"),
        (Images.REJECTED, False, "red stool"),
    ]
    assert {q.prompt for q in pair} == {
        "Is there a red stool in the image? Please answer yes or no."
    }
    # A count contrast removes nothing; a crop has no region.
    assert {q.pair_id for q in asked(QuestionSet.REMOVED)} == {"a", "b", "c", "d", "e"}


def test_a_replacement_of_the_same_kind_removes_nothing():
    edited = [scene("x", ["red bus"], "A red bus.", replacement="blue bus")]
    other = [scene("x", ["red bus"], "A red bus.", replacement="blue car")]
    assert questions(edited) == []
    assert {q.answer for q in questions(other)} == {True, False}


def test_absent_things_are_not_those_that_the_texts_speak_of():
    for question in questions(SCENES):
        if question.chosen_by is QuestionSet.REMOVED or question.answer:
            continue
        own = [s for s in SCENES if s.image == question.image]
        heads = " ".join(s.text.lower() for s in own)
        assert question.thing.split()[-1].rstrip("s") not in heads, question


def test_popular_and_adversarial_orders():
    # "e" shows shoes alone; of the rest, three of the images have a table.
    assert [q.thing for q in asked(QuestionSet.POPULAR, pair_id="e")] == ["shoes", "table"]
    # Nothing occurs with shoes, so frequency decides there as well.
    assert [q.thing for q in asked(QuestionSet.ADVERSARIAL, pair_id="e")] == ["shoes", "table"]
    with_lamp = [*SCENES, scene("h", ["lamp"], "x", image="image of e")]
    more = [*with_lamp, scene("i", ["red stool"], "x", image="image of d")]
    found = [q for q in questions(more) if q.pair_id == "e"]
    # The image has a lamp now, and lamps go with stools (image d); tables are more frequent.
    assert negatives(found, QuestionSet.ADVERSARIAL)[0] == "red stool"
    assert negatives(found, QuestionSet.POPULAR)[0] == "table"


def test_every_set_is_balanced_by_image_and_the_same_each_time():
    found = questions(SCENES, seed=5)
    assert found == questions(SCENES, seed=5)
    for by in QuestionSet:
        balance = Counter((q.image, q.answer) for q in found if q.chosen_by is by)
        for image in {image for image, _ in balance}:
            assert balance[image, True] == balance[image, False]
    assert {q.chosen_by for q in found} == set(QuestionSet)


@pytest.mark.parametrize(
    ("thing", "begins"),
    [
        ("apple", "Is there an apple in"),
        ("wine glasses", "Are there wine glasses in"),
        ("school bus", "Is there a school bus in"),
        ("skis", "Are there skis in"),
    ],
)
def test_the_question_fits_the_noun(thing, begins):
    assert phrase(thing).startswith(begins)


def test_scores_by_hand():
    found = asked(QuestionSet.REMOVED)
    # Yes to everything, but no to the last pair's: 4 of 5 found, 4 of 8 "yes" right.
    said = [q.pair_id != "e" for q in found]
    (line,) = score(found, said)
    assert line.accuracy.value == pytest.approx(0.5)
    assert line.precision == pytest.approx(0.5)
    assert line.recall == pytest.approx(0.8)
    assert line.f1 == pytest.approx(2 * 0.5 * 0.8 / 1.3)
    assert line.yes_ratio == pytest.approx(0.8)


def test_a_model_that_never_says_yes_has_no_precision():
    found = asked(QuestionSet.POPULAR)
    (line,) = score(found, [False] * len(found))
    assert line.precision is None
    assert line.f1 is None
    assert (line.recall, line.yes_ratio) == (0.0, 0.0)
    with pytest.raises(ValueError, match="give one each"):
        score(found, [True])
