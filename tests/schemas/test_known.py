"""The record of everything known in an image."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from schemas.arrow import from_bytes, to_bytes
from schemas.geometry import Box, Mask
from schemas.known import Known, Region, Thing
from schemas.records import Image, Seed, Segmented

MASK = Mask.from_array(np.eye(4, dtype=bool))
SUV = Thing({"suv": 0.6, "car": 0.4}, Box(0, 0, 4, 4), MASK, origin="sam3")


def test_annotations_come_back_as_they_were():
    regions = (Region("dog", Box(0, 0, 2, 2), MASK, ("red",)), Region("cat", Box(1, 1, 2, 2)))
    known = Known.annotated(regions)
    assert tuple(thing.region for thing in known.things) == regions
    assert SUV.region == Region("suv", SUV.box, MASK, score=0.6)


def test_others_are_neither_the_thing_nor_what_is_the_same():
    wheel = Thing({"wheel": 0.5}, Box(0, 0, 1, 1), part_of=0, origin="sam3")
    auto = replace(SUV, scores={"automobile": 0.5}, same_as=0)
    known = Known((SUV, wheel, auto, replace(auto, scores={"truck": 0.3})))
    assert [thing.label for thing in known.others(1)] == ["suv", "automobile", "truck"]
    assert all(known.others(i) == (wheel,) for i in (0, 2, 3))


def test_everything_travels_between_processes_with_the_masks_found_since():
    known = Known((SUV, Thing({"wheel": 0.5}, Box(0, 0, 1, 1), part_of=0, same_as=None)))
    known = known.with_masks({1: MASK})
    assert known.things[1].mask == MASK
    seed = Seed("s", 0, Image(b"x"), 4, 4, "What?", "A car.", None, (), "t:1", None)
    record = Segmented(seed, known, 1)
    (back,) = from_bytes(to_bytes([record], Segmented), Segmented)
    assert back == record
    assert [list(thing.scores) for thing in back.known.things] == [["suv", "car"], ["wheel"]]
