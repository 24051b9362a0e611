"""The choice among a seed's candidates costs no seed: what fails is out before it."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.recipes.build import load_recipe, shipped_recipes
from schemas.geometry import Box, Mask
from schemas.outcomes import Origin
from schemas.records import Candidate, Contrast, Kind, Reason, Region, ScoredCandidate, Seed
from stages.base import GroupStage
from stages.pixels import encode_jpeg, encode_pair
from workers.chain import Chain, ChainRunner
from workers.counters import Counters

SIDE = 128
ROUGH = np.random.default_rng(0).integers(0, 256, (SIDE // 8, SIDE // 8, 3), np.uint8)
IMAGE = ROUGH.repeat(8, 0).repeat(8, 1)


def candidate(name, share, score, kind):
    """One whose image changed in so much of its region, with a score to choose by."""
    mask = np.zeros((SIDE, SIDE), bool)
    mask[16:96, 16:96] = True
    edited = IMAGE.copy()
    edited[16 : 16 + int(share * 80), 16:96] ^= 128
    answer = f"A {name}."
    seed = Seed("s", 0, encode_jpeg(IMAGE), SIDE, SIDE, "?", "An image.", None, (), "t", None)
    images = encode_pair(seed.image, edited)
    region = Region(name, Box(16, 16, 96, 96), Mask.from_array(mask))
    contrast = Contrast(kind, name, None, f"change the {name}")
    made = Candidate(seed, contrast, (region,), *images, answer, {})
    scores = {"appearance": 0.9, "detail": score, "answer_similarity": score}
    return ScoredCandidate(made, {**scores, "answer_sentences": 1.0})


CHOOSING = {
    recipe.name: recipe
    for name in shipped_recipes()
    for recipe in load_recipe(name).recipes
    if any(isinstance(link.stage, GroupStage) for link in recipe.links)
}


@pytest.mark.parametrize("name", sorted(CHOOSING))
def test_one_that_fails_does_not_take_the_place_of_one_that_passes(name):
    links = CHOOSING[name].links
    start = [link.name for link in links].index("double_threshold")
    kind = {"recolor-cpu": Kind.ATTRIBUTE, "count-cpu": Kind.COUNT}.get(name, Kind.OBJECT)
    chain = Chain(Origin(name, "d", 0, "test", 2, ()), links[start:])
    records = [
        candidate("dog", 0.1, 0.2, kind),  # would be chosen, but hardly anything changed
        candidate("cat", 1, 0.3, kind),
        candidate("cow", 1, 0.4, kind),
    ]
    live, outcomes = ChainRunner(chain, Counters()).run(records)
    assert [pair.verified.candidate.contrast.target for pair in live] == ["cat"]
    dropped = {o.record.candidate.contrast.target: o.drop.reason for o in outcomes}
    assert dropped == {"dog": Reason.NO_CHANGE_INSIDE, "cow": Reason.NOT_SELECTED}


def test_all_recipes_that_choose_are_held():
    assert set(CHOOSING) == {"removal", "removal-cpu", "recolor-cpu", "count-cpu"}
