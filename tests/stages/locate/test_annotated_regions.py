import pytest

from schemas.geometry import Box
from schemas.records import Drop, Image, Reason, Region, Seed
from stages.locate.annotated_regions import AnnotatedRegions


def seed(chosen, *regions):
    return Seed("s", 0, Image(b""), 100, 100, "What?", chosen, None, regions, "test", None)


def region(label, *box, attributes=()):
    return Region(label, Box(*(box or (10, 10, 40, 40))), None, attributes)


def labels(stage, *args):
    outcome = stage.process_one(seed(*args))
    return outcome.reason if isinstance(outcome, Drop) else [r.label for r in outcome[0].regions]


FAR = (60, 60, 90, 90)


@pytest.mark.parametrize(
    ("regions", "expected"),
    [
        ((), Reason.NO_REGION),
        ((region("dog"),), ["dog"]),
        ((region("cat"),), Reason.NOT_IN_ANSWER),
        ((region("dog", 10, 10, 11, 11),), Reason.REGION_TOO_SMALL),
        ((region("dog", 0, 0, 100, 99),), Reason.REGION_TOO_LARGE),
        ((region("dog"), region("dog", *FAR)), Reason.AMBIGUOUS_REGION),
        ((region("brown dog"), region("dog", *FAR)), Reason.AMBIGUOUS_REGION),
        ((region("dog"), region("cat", 12, 10, 45, 40)), Reason.NO_REGION),
        ((region("dog"), region("bed", 0, 0, 60, 60)), ["dog"]),
        ((region("cat"), region("dog", *FAR)), ["dog"]),
    ],
)
def test_which_regions_pass(regions, expected):
    assert labels(AnnotatedRegions(), "A dog lies on a rug.", *regions) == expected


def test_colors_tell_regions_apart():
    chosen = "A red stool stands next to a yellow stool."
    two = (region("red stool"), region("stool", *FAR, attributes=("yellow",)))
    assert labels(AnnotatedRegions(), chosen, *two) == ["red stool", "stool"]
    two = (region("red stool"), region("stool", *FAR))
    assert labels(AnnotatedRegions(), "A red stool stands.", *two) == Reason.AMBIGUOUS_REGION


def test_one_of_a_bare_plural_is_ambiguous_unless_several_are_wanted():
    one = region("bear cub")
    chosen = "A bear sits with its cubs."
    assert labels(AnnotatedRegions(), chosen, one) == Reason.AMBIGUOUS_REGION
    assert labels(AnnotatedRegions(unique=False), chosen, one) == ["bear cub"]


@pytest.mark.parametrize(
    ("chosen", "label", "reason"),
    [
        ("Two dogs run.", "dog", Reason.AMBIGUOUS_REGION),
        ("A dog plays with another dog.", "dog", Reason.AMBIGUOUS_REGION),
        ("A brown dog and a white dog play.", "dog", Reason.AMBIGUOUS_REGION),
        ("A dog lies on green grass.", "grass", Reason.AMBIGUOUS_REGION),
        ("The image shows a dog.", "image", Reason.AMBIGUOUS_REGION),
        ("A hot dog lies on a plate.", "dog", Reason.NOT_IN_ANSWER),
        ("The dog is not wearing a red collar.", "collar", Reason.NOT_IN_ANSWER),
        ("No, there are no cats, dogs, or birds.", "dog", Reason.NOT_IN_ANSWER),
        ("Neither the dog nor the cat moves.", "cat", Reason.NOT_IN_ANSWER),
    ],
)
def test_a_change_of_one_region_must_make_the_answer_false(chosen, label, reason):
    assert labels(AnnotatedRegions(), chosen, region(label)) == reason


def test_a_denial_ends_with_its_clause():
    for chosen in ("No, the dog sleeps.", "There is no cat, but a dog.", "No cats. A dog sleeps."):
        assert labels(AnnotatedRegions(), chosen, region("dog")) == ["dog"]
    chosen = "A man without a hat rides a bike."
    assert labels(AnnotatedRegions(), chosen, region("bike")) == ["bike"]
    chosen = "A red cup is here. The other cup is blue."
    assert labels(AnnotatedRegions(), chosen, region("red cup")) == ["red cup"]


def test_what_is_not_mentioned_can_be_asked_for():
    assert labels(AnnotatedRegions(mentioned=False), "A rug.", region("dog")) == ["dog"]


def test_large_and_central_regions_come_first():
    regions = (
        region("cup", 0, 0, 20, 20),
        region("dog", 40, 40, 60, 60),
        region("bed", 62, 20, 100, 60),
    )
    chosen = "A dog, a cup and a bed."
    assert labels(AnnotatedRegions(), chosen, *regions) == ["bed", "dog", "cup"]
    assert labels(AnnotatedRegions(max_regions=1), chosen, *regions) == ["bed"]
