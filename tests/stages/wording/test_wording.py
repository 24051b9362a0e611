from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.records import Span
from stages import wording

HERD = "Most of the horses are brown with dark manes, and one horse in the middle is white."
STOOLS = (
    "In the foreground stands a tall red stool, next to a shorter yellow stool with a painted "
    "seat and two small red ones."
)


def mentions(text, label):
    return [m for m in wording.find_mentions(text, label) if wording.refers_to(m, label)]


def phrases(text, label):
    return [text[m.span.start : m.span.end] for m in mentions(text, label)]


def colors(text, label):
    return [sorted(m.color_names) for m in mentions(text, label)]


@given(st.text())
def test_tokens_give_back_the_text(text):
    tokens = wording.tokenize(text)
    assert all(text[t.start : t.end] == t.text for t in tokens)
    assert "".join(t.text for t in tokens) == "".join(text.split())
    assert all(a.end <= b.start for a, b in pairwise(tokens))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("dog's blue-green eyes.", ["dog's", "blue-green", "eyes", "."]),
        ("\u732b\u304c\u4e8c\u5339 cats", ["\u732b", "\u304c", "\u4e8c", "\u5339", "cats"]),
        ("\u0939\u093f\u0928\u094d\u0926\u0940", ["\u0939\u093f\u0928\u094d\u0926\u0940"]),
        ("cafe\u0301, 2.5", ["cafe\u0301", ",", "2", ".", "5"]),
    ],
)
def test_words_of_many_scripts(text, expected):
    assert [t.text for t in wording.tokenize(text)] == expected


@pytest.mark.parametrize(
    ("label", "head"),
    [
        ("red stool", "stool"),
        ("bear cub", "cub"),
        ("cup of tea", "cup"),
        ("man wearing a hat", "man"),
        ("jumping cat", "cat"),
        ("the person's hand", "hand"),
        ("tennis_racket", "racket"),
        ("", ""),
    ],
)
def test_head_noun(label, head):
    assert wording.head_noun(label) == head


@pytest.mark.parametrize(
    ("text", "label", "expected"),
    [
        ("A bear with its cubs huddled close.", "bear cub", ["its cubs"]),
        ("Three WOMEN and a woman", "woman", ["Three WOMEN", "a woman"]),
        ("A white bulldog sits.", "dog", []),
        ("The dog bowl is red.", "dog", []),
        ("The car lights are on.", "car", []),
        ("There is no dog here, without a dog it is like a dog.", "dog", []),
        ("A wooden pier leads out.", "pier", ["A wooden pier"]),
        ("Two buses, one bus", "bus", ["Two buses", "one bus"]),
        ("The glasses and glass", "glass", ["The glasses", "glass"]),
        ("A hot dog and a dog", "dog", ["a dog"]),
        ("A hot dog and a dog", "hot dog", ["A hot dog"]),
        ("A dog runs.", "dog 1", ["A dog"]),
        ("The dog isn't wearing a hat, nor a coat.", "coat", []),
        ("There are no cats, dogs or birds.", "bird", []),
        ("No, the dog sleeps.", "dog", ["the dog"]),
        (STOOLS, "red stool", ["a tall red stool"]),
        (STOOLS, "yellow stool", ["a shorter yellow stool"]),
        (STOOLS, "stool", ["a tall red stool", "a shorter yellow stool"]),
        ("A cat jumps above the other cats.", "cat", ["A cat"]),
        ("A man riding a horse.", "horse", ["a horse"]),
    ],
)
def test_where_a_label_is_mentioned(text, label, expected):
    assert phrases(text, label) == expected


@pytest.mark.parametrize(
    ("text", "label", "expected"),
    [
        ("a tall red stool", "stool", [["red"]]),
        ("The stool in the corner is dark red.", "stool", [["red"]]),
        ("A stool that is grey and white stands", "stool", [["gray", "white"]]),
        ("A brown and white corgi runs.", "corgi", [["brown", "white"]]),
        ("A man in a yellow shirt waits.", "man", [[]]),
        ("A man in a yellow shirt waits.", "shirt", [["yellow"]]),
        ("in a white hat, black shirt and red trousers", "shirt", [["black"]]),
        ("A white man waits.", "man", [[]]),
        ("A black bear sleeps.", "bear", [[]]),
        ("A white wine glass", "glass", [[]]),
        ("The stool is not red.", "stool", [[]]),
        ("The white-haired dog sleeps.", "dog", [[]]),
        ("The dog is a red car.", "dog", [[]]),
        (HERD, "white horse", [["white"]]),
        ("The wheel of the bike is black.", "bike", [[]]),
        ("The wheel of the bike is black.", "wheel", [["black"]]),
        ("A man holding an umbrella is red.", "umbrella", [[]]),
        ("The table with a lamp and a chair is red.", "chair", [[]]),
        ("The rug is red and the chair is blue.", "chair", [["blue"]]),
        ("The cup and the plate are red.", "plate", [[]]),
        ("He is in front of the White House.", "house", [[]]),
        ("A glass of orange juice", "orange juice", [[]]),
    ],
)
def test_colors_that_belong_to_the_noun(text, label, expected):
    assert colors(text, label) == expected


def test_a_shade_is_part_of_the_color_and_near_colors_are_not_exact():
    (mention,) = wording.find_mentions("a dark blue cup", "cup")
    assert mention.colors == (wording.ColorWord("blue", Span(2, 11), exact=True),)
    (mention,) = wording.find_mentions("a teal cup", "cup")
    assert mention.colors == (wording.ColorWord("blue", Span(2, 6), exact=False),)
    (mention,) = wording.find_mentions("a reddish brown cup", "cup")
    assert [color.exact for color in mention.colors] == [False, False]


def test_a_pronoun_that_is_given_a_color_is_found():
    assert [c.name for c in wording.pronoun_colors("A red cup. It is red.")] == ["red"]
    assert wording.pronoun_colors("A red cup. The wall is red.") == ()


@pytest.mark.parametrize(
    ("text", "label", "expected"),
    [
        ("A corgi is leaping.", "corgi", "Two corgis are leaping."),
        ("Two dogs run.", "dog", "Three dogs run."),
        ("2 dogs run.", "dog", "3 dogs run."),
        ("TWO dogs run.", "dog", "THREE dogs run."),
        ("There is a dog.", "dog", "There are two dogs."),
        ("There's one sheep that grazes.", "sheep", "There are two sheep that graze."),
        ("An umpire has a hat.", "umpire", "Two umpires have a hat."),
        (
            "A truck with a canopy over its bed was parked.",
            "truck",
            "Two trucks with a canopy over their bed were parked.",
        ),
        ("A dog runs. The dog is brown.", "dog", "Two dogs run. The dogs are brown."),
        ("A dog runs while a cat sits.", "dog", "Two dogs run while a cat sits."),
        ("A dog sits and a cat sleeps.", "dog", "Two dogs sit and a cat sleeps."),
        ("A deer stands there.", "deer", "Two deer stand there."),
        ("A dog chases a ball that is red.", "dog", "Two dogs chase a ball that is red."),
        ("A man in a shirt is tall.", "shirt", "A man in two shirts is tall."),
        (
            HERD,
            "white horse",
            "Most of the horses are brown with dark manes, and two horses in the middle are white.",
        ),
    ],
)
def test_one_more(text, label, expected):
    found = mentions(text, label)
    counted = wording.counted(text, found)
    assert not isinstance(counted, str), counted
    assert wording.one_more(text, found, counted) == expected


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("Some dogs run.", "dog"),
        ("Three small red ones.", "stool"),
        ("At least two dogs run.", "dog"),
        ("Two or three dogs run.", "dog"),
        ("Two of the dogs run.", "dog"),
        ("Both dogs run.", "dog"),
        ("A single dog runs.", "dog"),
        ("It is a dog.", "dog"),
        ("A dog and a dog run.", "dog"),
        ("Two dogs run, one dog is brown.", "dog"),
        ("A pair of trousers, one trousers", "trousers"),
        ("1.5 dogs", "dog"),
        ("The dog runs.", "dog"),
        ("There is only one dog.", "dog"),
        ("Yes, there is a dog.", "dog"),
        ("Is there a dog?", "dog"),
        ("A red and a blue kite fly.", "kite"),
        ("A red truck and trailer wait.", "truck"),
        ("A player wearing a hat swings.", "player"),
        ("A dog runs and catches it.", "dog"),
        ("A bird sits on a branch and sings.", "bird"),
        ("A dog in the yard howls.", "dog"),
        ("A dog sleeps. It is brown.", "dog"),
        ("A man skates. He is tall.", "man"),
        ("Two dogs face each other.", "dog"),
        ("Two dogs sleep, one on a bed.", "dog"),
        ("Two children, a boy and a girl, play.", "child"),
        ("A truck and a car wait. Both are red.", "car"),
    ],
)
def test_what_is_not_counted(text, label):
    assert isinstance(wording.counted(text, mentions(text, label)), str)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("A dog lies next to a bed.", "next"),
        ("A cat sits at the upper left.", "left"),
        ("She is holding a cup.", "holding"),
        ("A cup lies on the grass.", None),
        ("A dog in a red coat walks down the street.", None),
        ("A photo of a dog", None),
        ("A dog runs with its tongue out.", None),
        ("An image of a dog hangs there.", "of"),
        ("A dog lies on a couch.", "on"),
        ("A vase with a cup stands there.", "with"),
        ("There is a cup on the tray.", "on"),
        ("A boy watches a dog.", "watches"),
        ("A dog chases the ball.", "chases"),
        ("A dog eats grass.", "eats"),
        ("She is in the middle. There is a cup.", None),
    ],
)
def test_words_that_tie_to_a_place(text, word):
    label = next(x for x in ("dog", "cat", "cup") if x in text)
    (mention,) = wording.find_mentions(text, label)
    assert wording.place_word(text, mention) == word


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A cat at the upper left jumps.", "A cat at the upper right jumps."),
        ("A cat on the left and a dog on the right.", "A cat on the right and a dog on the left."),
        (
            "The leftmost man has a ball in his right hand.",
            "The rightmost man has a ball in his left hand.",
        ),
        ("Left hand side: a cat", "Right hand side: a cat"),
        ("The cat is looking to the right.", "The cat is looking to the left."),
        ("On the right next to it, right now.", "On the left next to it, right now."),
    ],
)
def test_sides_are_swapped_back_and_forth(text, expected):
    reading = wording.read_sides(text)
    assert reading.doubt is None
    mirrored = wording.mirror_sides(text, reading.sides)
    assert mirrored == expected
    assert wording.mirror_sides(mirrored, wording.read_sides(mirrored).sides) == text


@pytest.mark.parametrize(
    "text",
    ["right now", "It is right next to it", "The dog has left.", "left behind", "all right", ""],
)
def test_no_sides(text):
    assert wording.read_sides(text) == wording.SideReading((), None)


@pytest.mark.parametrize(
    "text",
    [
        "Trees stand on the left and right.",
        "A lamp on the left and a lamp on the right.",
        "Go left",
        "The sign on the left reads STOP.",
        "On the left, the wheel turns clockwise.",
        "A left-handed man on the right.",
        "The clock on the left shows three.",
        "The player with number 10 is on the left.",
        "The cat is not on the left of the dog.",
    ],
)
def test_sides_in_doubt(text):
    assert wording.read_sides(text).doubt


@pytest.mark.parametrize(
    ("text", "old", "new", "expected"),
    [
        ("a red apple", "red", "orange", "an orange apple"),
        ("An orange cup", "orange", "red", "A red cup"),
        ("Red cups", "Red", "blue", "Blue cups"),
        ("a RED cup", "RED", "orange", "an ORANGE cup"),
        ("a big red cup", "red", "orange", "a big orange cup"),
    ],
)
def test_replacing_keeps_case_and_articles(text, old, new, expected):
    start = text.index(old)
    assert wording.replace_spans(text, [(Span(start, start + len(old)), new)]) == expected


@pytest.mark.parametrize(
    ("text", "label", "others"),
    [
        ("A person skis.", "person", ["woman"]),
        ("A man skis next to a player.", "man", []),
        ("A red apple is next to a green one.", "apple", []),
        ("A baby elephant walks with its mother.", "elephant", []),
        ("A bird sits. Two more birds fly.", "bird", []),
        ("The dog's ear is brown.", "ear", []),
        ("A bike with a front wheel", "front wheel", []),
        ("The woman's hair is red.", "woman's hair", []),
        ("An animal sleeps.", "animal", []),
        ("Player 23 jumps.", "player 23", []),
        ("", "", []),
    ],
)
def test_what_may_stay_when_one_thing_is_gone(text, label, others):
    assert wording.may_stay(text, label, others)


def test_what_is_gone_with_the_one_thing():
    assert wording.may_stay("A man and a woman wait.", "man", ["woman", "dog"]) is None
    assert wording.may_stay("A dog sleeps. The dog is brown.", "dog", ["cat"]) is None
    assert wording.may_stay("A pink square and a green ring", "ring", ["square"]) is None
    assert wording.may_stay("There is one round cup.", "cup", []) is None
    assert wording.may_stay("A red cup and a blue cup", "red cup", ["blue cup"]) is None


def test_overlapping_or_foreign_spans_are_refused():
    with pytest.raises(ValueError, match="overlap"):
        wording.replace_spans("a red cup", [(Span(2, 5), "x"), (Span(4, 6), "y")])
    with pytest.raises(ValueError, match="leaves the text"):
        wording.replace_spans("a", [(Span(0, 2), "x")])


WORDS = st.sampled_from(
    [
        *("a", "the", "two", "no", "it", "dog", "dogs", "cat", "red", "blue", "left", "right"),
        *("and", ",", ".", "is", "are", "on", "in", "of", "that", "holding"),
    ]
)


@given(st.lists(WORDS, max_size=14).map(" ".join))
def test_the_rules_hold_on_any_salad_of_words(text):
    for mention in wording.find_mentions(text, "red dog"):
        assert wording.same_noun(mention.noun.text, "dog")
        assert text[mention.span.start : mention.span.end].endswith(mention.noun.text)
        for color in mention.colors:
            assert text[color.span.start : color.span.end].endswith(("red", "blue"))
    found = wording.find_mentions(text, "dog")
    counted = wording.counted(text, found)
    if not isinstance(counted, str):
        assert wording.one_more(text, found, counted) != text
    sides = wording.read_sides(text).sides
    mirrored = wording.mirror_sides(text, sides)
    assert len(mirrored.split()) == len(text.split())
