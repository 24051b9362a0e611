"""What a detector found counts as much as what was annotated, also what limits left out."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from fakes.opened import opened
from schemas.geometry import Box
from schemas.records import Region, Seed, Tag, Tagged
from stages.base import CpuBackend, Device
from stages.edit.duplicator import Duplicator
from stages.edit.inpainter import Inpainter
from stages.locate.annotated_regions import AnnotatedRegions
from stages.locate.detections import Detection
from stages.locate.detector import Detector
from stages.locate.segmenter import Segmenter
from stages.pixels import encode_jpeg

SIDE = 100
MAN, PERSON, BENCH = Box(10, 20, 30, 80), Box(70, 20, 90, 80), Box(40, 50, 60, 80)


@dataclass
class Models(CpuBackend):
    """Finds the boxes it was given, takes an ellipse for each mask, and fills with one colour."""

    name = "models"

    found: tuple[tuple[str, Box], ...] = ()
    avoided: list = field(default_factory=list)

    def detect(self, images, tags):
        return [[Detection(box, {name: 0.9}) for name, box in self.found] for _ in images]

    def segment(self, images, boxes):
        rows, cols = np.mgrid[0:SIDE, 0:SIDE] + 0.5
        return [
            [
                ((cols - (x0 + x1) / 2) / (x1 - x0)) ** 2
                + ((rows - (y0 + y1) / 2) / (y1 - y0)) ** 2
                <= 0.25
                for x0, y0, x1, y1 in own
            ]
            for own in boxes
        ]

    def fill(self, images, masks, avoid):
        self.avoided += avoid
        return [np.full_like(image, 7) for image in images]


def seed(chosen, things, *, annotated):
    image = encode_jpeg(np.full((SIDE, SIDE, 3), 200, np.uint8))
    regions = tuple(Region(name, box) for name, box in things) if annotated else ()
    return Seed("s", 0, image, SIDE, SIDE, "What?", chosen, None, regions, "t:1", None)


def segmented(chosen, things, models, *, annotated, **limits):
    """The records of the seed's kept regions, annotated or found in the same places."""
    start = seed(chosen, things, annotated=annotated)
    if annotated:
        stage = AnnotatedRegions(**limits)
        stage.open(Device())
        (grounded,) = stage.process([start])
    else:
        models.found = things
        stage = opened(Detector(models, **limits))
        stage.open(Device())
        tags = tuple(Tag(name, 0.9) for name, _ in things)
        (grounded,) = stage.process([Tagged(start, tags)])
    (records,) = opened(Segmenter(models)).process(grounded)
    return records


@pytest.mark.parametrize(
    ("chosen", "things", "limits"),
    [
        # The person may be a man, and is not kept: the answer does not speak of it.
        (
            "A man stands beside a bench.",
            (("man", MAN), ("person", PERSON), ("bench", BENCH)),
            {},
        ),
        # Another dog, which is too small to be kept.
        ("A dog sits there.", (("dog", MAN), ("dog", Box(80, 80, 84, 84))), {"unique": False}),
        # Nothing else: here the absence is true.
        ("A man stands beside a bench.", (("man", MAN), ("bench", BENCH)), {}),
    ],
)
def test_a_removal_knows_the_same_of_detected_things_as_of_annotated(chosen, things, limits):
    told = {}
    for annotated in (True, False):
        models = Models()
        records = segmented(chosen, things, models, annotated=annotated, **limits)
        outcomes = opened(Inpainter(models)).process(records)
        told[annotated] = [
            (c.contrast.target, c.counterfactual, int(avoided.sum()))
            for (c,), avoided in zip(outcomes, models.avoided, strict=True)
        ]
    assert told[True] == told[False]
    by_target = {target: (answer, avoided) for target, answer, avoided in told[False]}
    answer, avoided = by_target[things[0][0]]
    assert (answer is None) is (len(things) != 2 or "dog" in chosen)
    assert avoided == sum(round(box.area) for _, box in things[1:])


def test_copies_are_counted_among_detected_things():
    things = (("dog", MAN), ("bench", Box(40, 5, 45, 10)))
    for annotated in (True, False):
        for number, expected in (("A dog", "Two dogs"), ("Two dogs", None)):
            (record,) = segmented(
                f"{number} on the lawn.", things, Models(), annotated=annotated, unique=False
            )
            assert len(record.known.things) == 2
            assert len(record.others) == 1
            stage = Duplicator()
            stage.open(Device())
            outcome = stage.process_one(record)
            if expected is None:
                assert ", 1 are known" in outcome.detail
            else:
                assert outcome[0].counterfactual.startswith(expected)
