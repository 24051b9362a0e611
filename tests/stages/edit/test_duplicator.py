from dataclasses import replace

import numpy as np
import pytest

from schemas.geometry import Box, Mask
from schemas.known import Known
from schemas.records import Drop, Kind, Reason, Region, Seed, Segmented
from stages.edit.duplicator import Duplicator
from stages.pixels import decode, encode_jpeg

HEIGHT, WIDTH = 120, 240


TWICE = ((40, 50, 70, 90), (41, 52, 71, 90))


def scene(
    chosen="A dog stands on the grass.",
    boxes=((40, 50, 70, 90),),
    wall=None,
    seed_id="s",
    prompt="What?",
):
    """Dogs (brown ellipses) on grass under a sky; `wall` is a stretch of another ground."""
    draw = np.random.default_rng(1)
    pixels = np.empty((HEIGHT, WIDTH, 3))
    pixels[:45] = (140, 180, 230)
    pixels[45:] = (90, 140, 60)
    if wall is not None:
        pixels[:, wall] = (60, 30, 30)
    pixels += draw.normal(0, 5, (HEIGHT, WIDTH, 1))
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH]
    masks = []
    for x0, y0, x1, y1 in boxes:
        across = (columns + 0.5 - (x0 + x1) / 2) / ((x1 - x0) / 2)
        down = (rows + 0.5 - (y0 + y1) / 2) / ((y1 - y0) / 2)
        masks.append(across**2 + down**2 <= 1)
        pixels[masks[-1]] = (120, 70, 30)
        pixels[masks[-1] & (across < 0)] = (160, 100, 60)
    image = encode_jpeg(np.clip(pixels, 0, 255).astype(np.uint8))
    regions = tuple(Region("dog", Box(*map(float, box))) for box in boxes)
    seed = Seed(seed_id, 0, image, WIDTH, HEIGHT, prompt, chosen, None, regions, "test", None)
    region = Region("dog", regions[0].box, Mask.from_array(masks[0]))
    return Segmented(seed, Known.annotated((region, *regions[1:])), 0)


def reason(outcome):
    return outcome.reason if isinstance(outcome, Drop) else None


@pytest.mark.parametrize("seed_id", ["a", "b", "c", "d"])
def test_a_second_dog_stands_on_the_grass(seed_id):
    record = scene(seed_id=seed_id)
    (candidate,) = Duplicator().process_one(record)
    assert candidate.counterfactual == "Two dogs stand on the grass."
    assert (candidate.contrast.kind, candidate.contrast.replacement) == (Kind.COUNT, "two dogs")
    (pasted,) = candidate.regions
    mask = pasted.mask.to_array()
    assert mask.sum() == record.region.mask.area
    assert not (mask & record.region.mask.to_array()).any()
    dx, dy = map(int, candidate.params["offset"].split(","))
    assert abs(dy) <= 0.03 * HEIGHT + 2
    assert pasted.box == Box(40 + dx, 50 + dy, 70 + dx, 90 + dy)
    before, after = decode(candidate.chosen_image), decode(candidate.rejected_image)
    core = np.s_[60 + dy : 80 + dy, 50 + dx : 60 + dx]
    original = before[60:80, 50:60].astype(int)
    if candidate.params["mirrored"] == "true":
        original = original[:, ::-1]
    assert np.abs(after[core] - original).mean() < 6
    away = ~mask
    y0, x0 = max(50 + dy - 8, 0), max(40 + dx - 8, 0)
    away[y0 : 98 + dy, x0 : 78 + dx] = False
    assert np.array_equal(before[away], after[away])


def test_copies_are_sometimes_mirrored_unless_told_not_to():
    def mirrored(**settings):
        outcomes = (Duplicator(**settings).process_one(scene(seed_id=str(i))) for i in range(8))
        return {outcome[0].params["mirrored"] for outcome in outcomes}

    assert mirrored() == {"true", "false"}
    assert mirrored(mirror=False) == {"false"}


def test_like_ground_is_preferred():
    for seed_id in "abc":
        record = scene(wall=np.s_[78:170], seed_id=seed_id)
        (candidate,) = Duplicator().process_one(record)
        box = candidate.regions[0].box
        assert box.x0 >= 170 or box.x1 <= 40


def test_no_copy_on_other_ground_or_on_other_things():
    record = scene(boxes=((4, 50, 34, 90),), wall=np.s_[40:])
    assert reason(Duplicator().process_one(record)) == Reason.NO_FREE_PLACE
    assert reason(Duplicator(max_mismatch=9).process_one(record)) is None
    full = scene("Six dogs stand.", [(x, 50, x + 30, 90) for x in range(5, 230, 39)])
    assert reason(Duplicator().process_one(full)) == Reason.NO_FREE_PLACE


def test_numbers_go_up_and_other_dogs_are_left_free():
    boxes = ((10, 50, 40, 90), (60, 50, 90, 90))
    (candidate,) = Duplicator().process_one(scene("2 dogs are seen.", boxes))
    assert candidate.counterfactual == "3 dogs are seen."
    assert candidate.contrast.target == "two dogs"
    assert candidate.regions[0].box.intersection(Box(*map(float, boxes[1]))).area == 0


@pytest.mark.parametrize(
    ("record", "expected"),
    [
        (scene("The dog stands."), Reason.NO_COUNT_WORD),
        (scene("Some dogs stand."), Reason.NO_COUNT_WORD),
        (scene("Two dogs stand."), Reason.COUNT_MISMATCH),
        (scene("Two dogs stand.", TWICE), Reason.COUNT_MISMATCH),
        (scene("A dog sees another dog."), Reason.NO_COUNT_WORD),
        (scene("A dog stands.", prompt="What does the dog do?"), Reason.NO_COUNT_WORD),
        (scene("A dog stands on the left."), Reason.NO_FREE_PLACE),
        (scene("A dog stands next to a tree."), Reason.NO_FREE_PLACE),
        (scene(boxes=((-15, 50, 15, 90),)), Reason.BAD_SEGMENTATION),
        (scene(boxes=((20, 10, 220, 110),)), Reason.REGION_TOO_LARGE),
    ],
)
def test_what_would_not_be_honest_is_dropped(record, expected):
    assert reason(Duplicator().process_one(record)) == expected


def test_a_thing_cut_by_the_edge_or_half_a_mask_is_no_second_thing():
    record = scene()
    half = record.region.mask.to_array()
    half[:70] = False
    torn = Region("dog", record.region.box, Mask.from_array(half))
    outcome = Duplicator().process_one(replace(record, known=Known.annotated([torn])))
    assert reason(outcome) == Reason.BAD_SEGMENTATION
    edge = np.zeros((HEIGHT, WIDTH), bool)
    edge[50:90, :30] = True
    cut = Region("dog", Box(0, 50, 30, 90), Mask.from_array(edge))
    whole = scene(boxes=((0, 50, 30, 90),))
    outcome = Duplicator().process_one(replace(whole, known=Known.annotated([cut])))
    assert reason(outcome) == Reason.NO_FREE_PLACE


def test_articles_can_be_refused_as_numbers():
    assert reason(Duplicator(articles=False).process_one(scene())) == Reason.NO_COUNT_WORD
    one = scene("One dog stands.")
    assert reason(Duplicator(articles=False).process_one(one)) is None
