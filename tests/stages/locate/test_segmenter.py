"""Masks from boxes, on images whose true mask is known."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.opened import opened
from schemas.geometry import Box, Mask
from schemas.known import Known
from schemas.records import Drop, Grounded, Reason, Region, Seed
from stages.backends.locate.grabcut import GrabCut
from stages.base import BackendSettings, CpuBackend, Device
from stages.locate.segmenter import Segmenter, SegmenterModel
from stages.pixels import decode, encode_jpeg


def scene(seed, size=(240, 320), color=(190, 60, 40)):
    """A textured ground with a textured ellipse on it: pixels, true mask, its box."""
    rng = np.random.default_rng(seed)
    height, width = size
    ground = cv2.GaussianBlur(rng.normal(0, 60, (height, width, 1)).repeat(3, 2), (0, 0), 2)
    pixels = np.array([90, 140, 80]) + ground + rng.normal(0, 4, (height, width, 3))
    mask = np.zeros((height, width), np.uint8)
    center = int(width * rng.uniform(0.4, 0.6)), int(height * rng.uniform(0.4, 0.6))
    axes = int(width * rng.uniform(0.1, 0.2)), int(height * rng.uniform(0.1, 0.2))
    cv2.ellipse(mask, center, axes, float(rng.uniform(0, 180)), 0, 360, 1, cv2.FILLED)
    mask = mask.astype(bool)
    thing = np.array(color) + rng.normal(0, 12, (height, width, 3))
    pixels[mask] = thing[mask]
    rows, cols = np.nonzero(mask)
    box = Box(cols.min() - 3.0, rows.min() - 3.0, cols.max() + 4.0, rows.max() + 4.0)
    return pixels.clip(0, 255).astype(np.uint8), mask, box


def seed_of(pixels, regions=(), name="s"):
    image = encode_jpeg(pixels)
    height, width = pixels.shape[:2]
    answer = "A thing."
    return Seed(name, 0, image, width, height, "What?", answer, None, tuple(regions), "t:1", None)


def grounded(pixels, *boxes, masks=None):
    regions = tuple(
        Region(f"thing {i}", box, masks[i] if masks else None) for i, box in enumerate(boxes)
    )
    everything = tuple(range(len(regions)))
    return Grounded(seed_of(pixels, regions), Known.annotated(regions), everything)


def iou(one, other):
    return (one & other).sum() / (one | other).sum()


@dataclass
class Answering(CpuBackend):
    """Gives back prepared masks and remembers what it was asked."""

    name = "answering"

    masks: list
    calls: list = field(default_factory=list)

    def segment(self, images, boxes):
        self.calls.append([len(of_image) for of_image in boxes])
        left = iter(self.masks)
        return [[next(left) for _ in of_image] for of_image in boxes]


@pytest.mark.parametrize("seed", range(6))
def test_grabcut_finds_a_coloured_ellipse(seed):
    pixels, truth, box = scene(seed)
    ((mask,),) = GrabCut().segment([pixels], [[box]])
    assert mask.shape == truth.shape
    assert mask.dtype == bool
    assert iou(mask, truth) > 0.93


def test_edge_is_fitted_at_full_size():
    """Four times the working size: a mask that was only enlarged would be blocky at the edge."""
    pixels, truth, box = scene(3, size=(960, 1280))
    ((mask,),) = GrabCut(working_side=128).segment([pixels], [[box]])
    assert iou(mask, truth) > 0.97


def test_object_of_the_grounds_colours_is_not_lost():
    """Thing and ground are of the same two colours: only the sure core holds the thing."""
    rng = np.random.default_rng(1)
    pixels = np.where(rng.random((200, 200, 1)) < 0.5, 60, 180).repeat(3, 2).astype(np.uint8)
    pixels = cv2.GaussianBlur(pixels, (0, 0), 1)
    box = Box(60, 60, 140, 140)
    ((mask,),) = GrabCut().segment([pixels], [[box]])
    assert mask[80:120, 80:120].mean() > 0.5


def test_grabcut_is_the_same_again_alone_or_in_company_on_any_number_of_threads():
    scenes = [scene(s) for s in (4, 5, 6)]
    images, _, boxes = zip(*scenes, strict=True)
    together = GrabCut().segment(images, [[b] for b in boxes])
    threads = cv2.getNumThreads()
    try:
        cv2.setNumThreads(1)
        alone = [GrabCut().segment([i], [[b]])[0] for i, b in zip(images, boxes, strict=True)]
        cv2.setNumThreads(4)
        again = [GrabCut().segment([i], [[b]])[0] for i, b in zip(images, boxes, strict=True)]
    finally:
        cv2.setNumThreads(threads)
    for one, two, three in zip(together, alone, again, strict=True):
        np.testing.assert_array_equal(one[0], two[0])
        np.testing.assert_array_equal(one[0], three[0])


def test_grabcut_answers_in_the_order_of_the_boxes():
    pixels, truth, box = scene(7)
    elsewhere = Box(2, 2, 30, 30)
    (masks,) = GrabCut().segment([pixels], [[elsewhere, box]])
    assert not masks[0][60:].any()
    assert iou(masks[1], truth) > 0.93


@settings(max_examples=30)
@given(
    st.tuples(*[st.floats(-20, 80)] * 4),
    st.integers(1, 60),
    st.integers(1, 60),
    st.sampled_from(["flat", "noise", "ramp"]),
)
def test_any_box_in_any_image_gives_a_mask_inside_the_box(corners, width, height, look):
    x0, x1 = sorted(corners[:2])
    y0, y1 = sorted(corners[2:])
    box = Box(x0, y0, x1, y1)
    pixels = np.full((height, width, 3), 120, np.uint8)
    if look == "noise":
        pixels = np.random.default_rng(0).integers(0, 256, pixels.shape, dtype=np.uint8)
    if look == "ramp":
        pixels += np.arange(width, dtype=np.uint8)[None, :, None]
    ((mask,),) = GrabCut().segment([pixels], [[box]])
    assert mask.shape == (height, width)
    left, top, right, bottom = box.pixels(width, height)
    outside = np.ones_like(mask)
    outside[max(0, top) : bottom, max(0, left) : right] = False
    assert not (mask & outside).any()


@pytest.mark.parametrize("box", [Box(0, 0, 320, 240), Box(0, 0, 160, 240), Box(5, 5, 6, 6)])
def test_boxes_at_the_borders(box):
    pixels, _, _ = scene(8)
    ((mask,),) = GrabCut().segment([pixels], [[box]])
    assert mask.shape == (240, 320)


def test_grabcut_refuses_another_device():
    with pytest.raises(ValueError, match="cuda:0"):
        GrabCut().load(Device("cuda:0"))


def test_one_record_per_region_with_the_mask_in_it():
    pixels, truth, box = scene(9)
    stage = opened(Segmenter(GrabCut()))
    assert isinstance(stage.backend, BackendSettings)
    assert isinstance(stage.backend, SegmenterModel)
    stage.open(Device())
    (outcome,) = stage.process([grounded(pixels, box)])
    stage.close()
    assert [s.region.label for s in outcome] == ["thing 0"]
    assert iou(outcome[0].region.mask.to_array(), truth) > 0.9
    assert outcome[0].region.box == box
    assert decode(outcome[0].seed.image).shape == pixels.shape


def test_annotated_masks_pass_and_only_the_rest_is_asked_for():
    pixels, truth, box = scene(10)
    given_mask = Mask.from_array(truth)
    backend = Answering([truth])
    record = grounded(pixels, box, box, masks=[given_mask, None])
    plain = grounded(pixels, box, masks=[given_mask])
    outcomes = opened(Segmenter(backend)).process([plain, record])
    assert [len(o) for o in outcomes] == [1, 2]
    assert outcomes[0][0].region.mask == given_mask
    assert backend.calls == [[1]]


def test_without_a_backend_masks_that_are_there_pass_and_boxes_are_left_out():
    pixels, truth, box = scene(10)
    mask = Mask.from_array(truth)
    stage = Segmenter(None)
    stage.open(Device())
    kept, dropped = stage.process(
        [grounded(pixels, box, box, masks=[None, mask]), grounded(pixels, box)]
    )
    assert [(s.target, s.region.mask) for s in kept] == [(1, mask)]
    assert dropped.reason is Reason.BAD_SEGMENTATION
    assert "thing 0: only its box is known" in dropped.detail


def test_good_regions_survive_bad_ones():
    pixels, truth, box = scene(11)
    backend = Answering([np.zeros_like(truth), truth])
    (outcome,) = opened(Segmenter(backend)).process([grounded(pixels, box, box)])
    assert [s.region.label for s in outcome] == ["thing 1"]


@pytest.mark.parametrize(
    ("share", "reason", "words"),
    [
        (0.0, Reason.BAD_SEGMENTATION, "fills 0.0% of its box, expected 15.0% to 97.0%"),
        (1.0, Reason.BAD_SEGMENTATION, "fills 100.0%"),
    ],
)
def test_mask_that_took_nothing_or_everything(share, reason, words):
    pixels = scene(0)[0]
    mask = np.full(pixels.shape[:2], bool(share))
    (outcome,) = opened(Segmenter(Answering([mask]))).process(
        [grounded(pixels, Box(10, 10, 90, 90))]
    )
    assert isinstance(outcome, Drop)
    assert outcome.reason is reason
    assert words in outcome.detail


def test_too_small_too_large_and_empty_boxes():
    pixels, truth, box = scene(0)
    most = opened(Segmenter(Answering([truth]), max_area=0.01))
    assert most.process([grounded(pixels, box)])[0].reason is Reason.REGION_TOO_LARGE
    least = opened(Segmenter(Answering([truth]), min_area=0.9, max_area=1.0, min_fill=0))
    assert least.process([grounded(pixels, Box(0, 0, 300, 240))])[0].reason is (
        Reason.REGION_TOO_SMALL
    )
    backend = Answering([])
    early = opened(Segmenter(backend)).process(
        [grounded(pixels, Box(3, 3, 4, 4)), grounded(pixels, Box(5, 5, 5, 9))]
    )
    assert [drop.reason for drop in early] == [Reason.REGION_TOO_SMALL, Reason.BAD_BOX]
    assert backend.calls == []


def test_the_largest_region_tells_why_all_failed():
    pixels, truth, _ = scene(0)
    empty = np.zeros_like(truth)
    record = grounded(pixels, Box(0, 0, 40, 40), Box(50, 50, 200, 200), Box(9, 9, 9, 9))
    (drop,) = opened(Segmenter(Answering([empty, empty]))).process([record])
    assert drop.reason is Reason.BAD_SEGMENTATION
    assert drop.detail.startswith("thing 1: ")
    assert drop.detail.endswith("(nor 2 more)")


def test_annotated_mask_of_another_size_is_dropped_and_a_backends_wrong_size_raises():
    pixels, truth, box = scene(0)
    small = Mask.from_array(np.ones((4, 4), bool))
    (drop,) = opened(Segmenter(Answering([]))).process([grounded(pixels, box, masks=[small])])
    assert drop.reason is Reason.BAD_SEGMENTATION
    with pytest.raises(ValueError, match="mask of shape"):
        opened(Segmenter(Answering([truth[:9]]))).process([grounded(pixels, box)])


def test_contradictory_bounds_raise():
    with pytest.raises(ValueError, match="min_fill"):
        opened(Segmenter(GrabCut(), min_fill=0.9, max_fill=0.5))
