import numpy as np
import pytest

from schemas.geometry import Box
from schemas.records import Drop, Kind, Reason, Region, Seed
from stages.edit.flipper import Flipper
from stages.pixels import decode, encode_jpeg


def seed(chosen, prompt="What is there?", regions=()):
    pixels = np.zeros((40, 60, 3), np.uint8)
    pixels[:, :20] = (200, 30, 30)
    image = encode_jpeg(pixels)
    return Seed("s", 0, image, 60, 40, prompt, chosen, None, regions, "test", None)


def test_image_and_answer_are_mirrored():
    (candidate,) = Flipper().process_one(seed("A red wall is on the left."))
    assert candidate.counterfactual == "A red wall is on the right."
    original, mirrored = decode(candidate.chosen_image), decode(candidate.rejected_image)
    difference = np.abs(original[:, ::-1].astype(int) - mirrored.astype(int))
    assert difference.mean() < 2
    assert mirrored[:, 45:, 0].mean() > 180
    assert candidate.regions == ()
    contrast = candidate.contrast
    assert (contrast.kind, contrast.target, contrast.replacement) == (
        Kind.POSITION,
        "left",
        "right",
    )


@pytest.mark.parametrize(
    ("chosen", "prompt", "reason"),
    [
        ("A red wall.", "What?", Reason.NO_SIDE_WORD),
        ("It is right behind the wall.", "What?", Reason.NO_SIDE_WORD),
        ("Walls are on the left and right.", "What?", Reason.NO_SIDE_WORD),
        ("A wall is on the left.", "What is on the left?", Reason.SIDE_IN_PROMPT),
    ],
)
def test_what_a_mirror_does_not_falsify_is_dropped(chosen, prompt, reason):
    outcome = Flipper().process_one(seed(chosen, prompt))
    assert isinstance(outcome, Drop)
    assert outcome.reason == reason


def test_a_thing_in_both_halves_is_dropped():
    cats = tuple(Region("cat", Box(x, 0, x + 10, 10)) for x in (0, 45))
    assert isinstance(Flipper().process_one(seed("A cat is on the left.", regions=cats)), Drop)
    assert not isinstance(
        Flipper().process_one(seed("A cat is on the left.", regions=cats[:1])), Drop
    )
