"""Boxes of tagged things: each once, the ones worth changing, annotations first."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from pydantic import TypeAdapter

from fakes.opened import opened
from schemas.geometry import Box, Mask
from schemas.records import Drop, Reason, Region, Seed, Tag, Tagged
from stages.base import Device
from stages.locate.detections import Detection
from stages.locate.detector import Detector, DetectorModel
from stages.pixels import encode_jpeg


@dataclass
class Finding:
    """Gives the prepared detections, and remembers what it was asked."""

    answers: list
    asked: list = field(default_factory=list)
    opened: int = 0
    name: str = "finding"

    def load(self, device):
        self.opened += 1
        return self

    def close(self):
        self.opened -= 1

    def detect(self, images, tags):
        self.asked.append(
            [(image.shape, list(names)) for image, names in zip(images, tags, strict=True)]
        )
        left = iter(self.answers)
        return [next(left) for _ in images]


def tagged(chosen="A dog and a cat.", tags=("dog", "cat"), regions=()):
    image = encode_jpeg(np.zeros((100, 100, 3), np.uint8))
    seed = Seed("s", 0, image, 100, 100, "What?", chosen, None, tuple(regions), "t:1", None)
    return Tagged(seed, tuple(Tag(name, 0.9) for name in tags))


def found(detections, record=None, **settings):
    """(label, score) of the regions, or the reason of the drop."""
    backend = Finding([[Detection(Box(*box), {tag: score}) for tag, box, score in detections]])
    (outcome,) = opened(Detector(backend, **settings)).process([record or tagged()])
    if isinstance(outcome, Drop):
        return outcome.reason
    return [(region.label, region.score) for region in outcome[0].regions]


DOG, CAT = (10, 10, 40, 40), (60, 60, 90, 90)


def test_regions_carry_the_score_and_the_clipped_box():
    backend = Finding([[Detection(Box(-5, 10, 40, 140), {"dog": 0.5})]])
    (outcome,) = opened(Detector(backend, max_area=1.0)).process([tagged()])
    assert outcome[0].regions == (Region("dog", Box(0, 10, 40, 100), score=0.5),)
    assert backend.asked == [[((100, 100, 3), ["dog", "cat"])]]


def test_a_tag_found_twice_in_one_place_is_one_thing():
    shifted = (13, 10, 43, 40)  # IoU 27/33
    detections = [("dog", shifted, 0.6), ("dog", DOG, 0.7), ("cat", CAT, 0.4)]
    assert found(detections) == [("dog", 0.7), ("cat", 0.4)]
    # Two dogs, then: neither is the one that the answer means.
    assert found(detections, same_tag_iou=0.9) == [("cat", 0.4)]
    assert found(detections, same_tag_iou=0.9, unique=False, max_overlap=1) == [
        ("dog", 0.6),  # nearer to the middle
        ("dog", 0.7),
        ("cat", 0.4),
    ]


def test_one_thing_under_two_names_keeps_that_of_the_answer():
    record = tagged("A man rides a horse.", ("person", "man", "horse"))
    detections = [("person", DOG, 0.9), ("man", (11, 10, 40, 40), 0.4), ("horse", CAT, 0.5)]
    assert found(detections, record) == [("horse", 0.5), ("man", 0.4)]
    record = tagged("An image.", ("person", "man", "horse"))
    assert found(detections, record, mentioned=False) == [("person", 0.9), ("horse", 0.5)]
    # Apart, the person is another thing, in front of the man.
    record = tagged("A man.", ("person", "man"))
    assert found(detections[:2], record, any_tag_iou=0.99) == Reason.NO_REGION


def test_what_is_found_but_not_mentioned_still_covers_and_rivals():
    assert found([("dog", DOG, 0.9), ("bowl", (20, 10, 45, 40), 0.5)]) == Reason.NO_REGION
    assert found([("dog", DOG, 0.9), ("brown dog", CAT, 0.5)]) == Reason.AMBIGUOUS_REGION


def test_a_thing_keeps_every_score_and_the_mask_of_the_detection_that_names_it():
    box, mask = Box(*DOG), np.zeros((100, 100), bool)
    mask[10:40, 10:35] = True
    answers = [
        Detection(Box(11, 10, 40, 40), {"vehicle": 0.3, "van": 0.4}),
        Detection(box, {"suv": 0.6, "car": 0.5}, mask, {"van": 0.2, "truck": 0.1}),
        Detection(Box(*CAT), {"cat": 0.8}),
    ]
    (outcome,) = opened(Detector(Finding([answers]))).process([tagged("A car and a cat.")])
    cat, car = outcome[0].known.things
    assert list(car.scores.items()) == [
        ("car", 0.5), ("suv", 0.6), ("van", 0.4), ("vehicle", 0.3), ("truck", 0.1)
    ]  # fmt: skip
    assert (car.label, car.box, car.origin) == ("car", box, "finding")
    assert (car.mask, cat.mask) == (Mask.from_array(mask), None)
    assert outcome[0].regions == (cat.region, Region("car", box, car.mask, score=0.5))
    with pytest.raises(ValueError, match=r"mask of shape \(9, 100\)"):
        opened(Detector(Finding([[Detection(box, {"cat": 0.5}, mask[:9])]]))).process([tagged()])


@pytest.mark.parametrize(
    ("detections", "settings", "expected"),
    [
        ([], {}, Reason.NO_REGION),
        ([("dog", (10, 10, 10, 40), 0.9)], {}, Reason.NO_REGION),
        ([("dog", (10, 10, 12, 12), 0.9)], {}, Reason.REGION_TOO_SMALL),
        ([("dog", (0, 0, 100, 60), 0.9)], {}, Reason.REGION_TOO_LARGE),
        ([("dog", (0, 0, 100, 60), 0.9)], {"max_area": 0.7}, [("dog", 0.9)]),
        ([("bird", DOG, 0.9)], {}, Reason.NOT_IN_ANSWER),
        ([("bird", DOG, 0.9)], {"mentioned": False}, [("bird", 0.9)]),
        ([("dog", DOG, 0.9), ("cat", CAT, 0.8)], {"max_regions": 1}, [("dog", 0.9)]),
    ],
)
def test_the_limits_of_annotated_regions_hold(detections, settings, expected):
    assert found(detections, **settings) == expected


def test_a_drop_says_which_tags_were_asked():
    (outcome,) = opened(Detector(Finding([[]]))).process([tagged()])
    assert outcome == Drop(Reason.NO_REGION, "none of 2 tags was found: dog, cat")


def test_annotated_regions_replace_detection():
    mine = Region("dog", Box(*DOG))
    backend = Finding([[Detection(Box(*CAT), {"cat": 0.8})]])
    batch = [tagged(tags=(), regions=[mine]), tagged()]
    first, second = opened(Detector(backend)).process(batch)
    assert first[0].regions == (mine,)
    assert [r.label for r in second[0].regions] == ["cat"]
    assert len(backend.asked) == len(backend.asked[0]) == 1
    # The limits hold for annotations, too, and the model does not stand in.
    outcome = opened(Detector(backend)).process([tagged(regions=[Region("bird", Box(*DOG))])])[0]
    assert outcome.reason == Reason.NOT_IN_ANSWER


@pytest.mark.parametrize(
    "bad", [("dog", DOG, float("nan")), ("dog", DOG, 1.2), ("dog", (0, 0, float("inf"), 9), 0.5)]
)
def test_numbers_out_of_bounds_are_trouble(bad):
    with pytest.raises(ValueError, match="finite pixels"):
        found([bad])


def test_settings_and_opening():
    backend = Finding([])
    stage = TypeAdapter(Detector).validate_python({"backend": backend, "max_area": 0.3})
    assert isinstance(backend, DetectorModel)
    stage.open(Device())
    assert backend.opened == 1
    stage.close()
    assert backend.opened == 0
    for wrong in ({"max_regions": 0}, {"min_areaa": 1}, {"min_area": 0.5, "max_area": 0.1}):
        with pytest.raises(ValueError):
            TypeAdapter(Detector).validate_python({"backend": backend, **wrong})
