"""Tags of images: which are kept, which seeds the model sees."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest
from pydantic import TypeAdapter

from fakes.opened import opened
from schemas.geometry import Box
from schemas.records import Drop, Reason, Region, Seed, Tag
from stages.base import CpuBackend
from stages.locate.scene_tags import SCENE_TAGS
from stages.locate.tagger import Tagger, TaggerModel
from stages.pixels import encode_jpeg


@dataclass
class Saying(CpuBackend):
    """Gives the prepared tags, and remembers how bright the images were."""

    name = "saying"

    answers: list[list[tuple[str, float]]]
    seen: list[list[int]] = field(default_factory=list)

    def tag(self, images):
        self.seen.append([round(float(image.mean())) for image in images])
        left = iter(self.answers)
        return [next(left) for _ in images]


def seed(brightness=0, regions=()):
    image = encode_jpeg(np.full((16, 16, 3), brightness, np.uint8))
    return Seed("s", 0, image, 16, 16, "What?", "A dog.", None, tuple(regions), "t:1", None)


DOG = Region("dog", Box(1, 1, 9, 9))


def tagged(answer, **settings):
    (outcome,) = opened(Tagger(Saying([answer]), **settings)).process([seed()])
    return outcome if isinstance(outcome, Drop) else [(t.name, t.score) for t in outcome[0].tags]


def test_the_most_confident_come_first_and_once():
    found = [("cat", 0.7), ("red panda", 0.9), (" Red  Panda ", 0.8), ("dog", 0.7)]
    assert tagged(found) == [("red panda", 0.9), ("cat", 0.7), ("dog", 0.7)]
    assert tagged(found, max_tags=2) == [("red panda", 0.9), ("cat", 0.7)]
    assert tagged(found, min_score=0.8) == [("red panda", 0.9)]


def test_what_names_no_thing_is_left_out():
    found = [("Sky", 0.99), ("sit", 0.9), ("dog", 0.8), ("wood floor", 0.7), ("", 0.9)]
    assert tagged(found) == [("dog", 0.8)]
    assert tagged(found, stop=("DOG",)) == [
        ("Sky", 0.99),
        ("sit", 0.9),
        ("wood floor", 0.7),
    ]


def test_no_tag_left_is_a_drop_that_says_what_was_found():
    outcome = tagged([("sky", 0.9), ("grass", 0.8)])
    assert outcome == Drop(Reason.NO_TAG, "no tag left of 2 found: sky, grass")
    assert tagged([]) == Drop(Reason.NO_TAG, "no tag left of 0 found: none")


def test_seeds_with_annotated_regions_pass_by_the_model():
    backend = Saying([[("dog", 0.9)], [("cat", 0.8)]])
    batch = [seed(50), seed(90, [DOG]), seed(200)]
    outcomes = opened(Tagger(backend)).process(batch)
    assert backend.seen == [[50, 200]]
    assert [outcome[0].tags for outcome in outcomes] == [
        (Tag("dog", 0.9),),
        (),
        (Tag("cat", 0.8),),
    ]
    assert [outcome[0].seed for outcome in outcomes] == batch
    backend.seen.clear()
    opened(Tagger(backend)).process([seed(90, [DOG])])
    assert backend.seen == []


@pytest.mark.parametrize("score", [-0.1, 1.5, float("nan")])
def test_a_score_that_is_none_is_trouble(score):
    with pytest.raises(ValueError, match="has the score"):
        tagged([("dog", score)])


def test_the_default_list_names_scenes_and_no_things():
    assert len(set(SCENE_TAGS)) == len(SCENE_TAGS) > 250
    assert {"sky", "floor", "living room", "stand", "gray"} <= set(SCENE_TAGS)
    assert not {"dog", "person", "cup", "frisbee", "tree", "car", "stool"} & set(SCENE_TAGS)
    assert all(name == name.strip().lower() and name for name in SCENE_TAGS)


def test_settings():
    made = TypeAdapter(Tagger).validate_python({"backend": Saying([]), "stop": ["sky", "sea"]})
    assert made.stop == ("sky", "sea")
    assert isinstance(made.backend, TaggerModel)
    for wrong in ({"max_tags": 0}, {"stopp": []}, {"min_score": 2}):
        with pytest.raises(ValueError):
            TypeAdapter(Tagger).validate_python({"backend": Saying([]), **wrong})
