"""Things taken out of images, on grounds that are known behind them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.opened import opened
from schemas.geometry import Box, Mask
from schemas.known import Known
from schemas.records import Candidate, Drop, Kind, Reason, Region, Seed, Segmented
from stages.backends.inpaint.classical import FILLS, PatchFill, TeleaFill
from stages.base import CpuBackend, Device
from stages.edit.blending import blended
from stages.edit.inpainter import Inpainter, InpainterModel, absence, plain_label
from stages.pixels import decode, encode_jpeg


def ground(seed, height=160, width=200):
    """A textured ground: rough below, smooth above."""
    rng = np.random.default_rng(seed)
    rough = cv2.GaussianBlur(rng.normal(0, 90, (height, width)), (0, 0), 1.2)
    amount = (np.arange(height) > height // 2).astype(float)[:, None]
    base = np.where(amount[..., None] > 0, [90, 130, 70], [150, 180, 220])
    return (base + (rough * amount)[..., None]).clip(0, 255).astype(np.uint8)


def scene(seed, color=(200, 30, 40), **size):
    """(pixels with a red ellipse, ground without it, its mask)."""
    plain = ground(seed, **size)
    rng = np.random.default_rng(seed)
    height, width = plain.shape[:2]
    mask = np.zeros((height, width), np.uint8)
    center = int(width * rng.uniform(0.4, 0.6)), int(height * rng.uniform(0.55, 0.7))
    cv2.ellipse(mask, center, (width // 8, height // 7), 0, 0, 360, 1, cv2.FILLED)
    pixels = plain.copy()
    pixels[mask > 0] = color
    return pixels, plain, mask > 0


def record(pixels, mask, label="red stool", others=()):
    height, width = pixels.shape[:2]
    rows, cols = np.nonzero(mask) if mask.any() else (np.array([0]), np.array([0]))
    box = Box(float(cols.min()), float(rows.min()), cols.max() + 1.0, rows.max() + 1.0)
    region = Region(label, box)
    image = encode_jpeg(pixels)
    seed = Seed(
        "s", 0, image, width, height, "What?", "A red stool.", None, (region, *others), "t:1", None
    )
    segmented = Region(label, box, Mask.from_array(mask))
    return Segmented(seed, Known.annotated((segmented, *others)), 0)


@dataclass
class Painting(CpuBackend):
    """Fills with one colour, everywhere, as a careless model would."""

    name = "painting"

    def fill(self, images, masks, avoid):
        return [np.full_like(image, 7) for image in images]


@pytest.mark.parametrize("backend", FILLS)
@pytest.mark.parametrize("seed", range(3))
def test_the_thing_goes_and_all_else_stays(backend, seed):
    pixels, _, mask = scene(seed)
    hole = cv2.dilate(mask.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    (filled,) = backend().fill([pixels], [hole], [np.zeros_like(hole)])
    np.testing.assert_array_equal(filled[~hole], pixels[~hole])
    # Nothing of the red thing is left: the ground has no pixel with more red than blue by 90.
    redness = filled[..., 0].astype(int) - filled[..., 2]
    assert redness[hole].max() < 90


@pytest.mark.parametrize("seed", range(3))
def test_patches_keep_the_grounds_texture_where_smooth_fills_lose_it(seed):
    pixels, plain, mask = scene(seed)
    hole = cv2.dilate(mask.astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
    inner = cv2.erode(hole.astype(np.uint8), np.ones((9, 9), np.uint8)) > 0
    inner[: pixels.shape[0] // 2 + 8] = False

    def roughness(image):
        return np.abs(cv2.Laplacian(image[..., 1].astype(np.float32), cv2.CV_32F))[inner].mean()

    (patched,), (smooth,) = (
        b().fill([pixels], [hole], [np.zeros_like(hole)]) for b in (PatchFill, TeleaFill)
    )
    assert 0.6 < roughness(patched) / roughness(plain) < 1.5
    assert roughness(smooth) < 0.6 * roughness(plain)


def test_an_edge_is_carried_through_the_hole():
    pixels = np.zeros((120, 160, 3), np.uint8)
    pixels[:60], pixels[60:] = (40, 60, 200), (60, 160, 50)
    truth = pixels.copy()
    hole = np.zeros((120, 160), bool)
    hole[40:85, 60:100] = True
    pixels[hole] = 255
    (filled,) = PatchFill().fill([pixels], [hole], [np.zeros_like(hole)])
    wrong = np.abs(filled.astype(int) - truth).max(axis=2) > 40
    assert wrong[hole].mean() < 0.08


def test_nothing_is_copied_from_other_things():
    """A blue thing touches the hole's rim: without word of it, the fill makes more of it."""
    pixels = ground(3, 120, 160)
    pixels[40:110, 20:50] = (20, 30, 230)
    hole = np.zeros((120, 160), bool)
    hole[30:115, 50:110] = True
    box = np.zeros_like(hole)
    box[38:112, 18:52] = True

    def blue(avoid):
        (filled,) = PatchFill().fill([pixels], [hole], [avoid])
        return (filled[hole].astype(int) @ [-1, 0, 1] > 150).mean()

    assert blue(np.zeros_like(hole)) > 0.02
    assert blue(box) < 0.01


def test_the_stage_tells_of_other_things_but_not_of_what_is_around():
    pixels, _, mask = scene(1)
    asked = []

    class Asking(Painting):
        def fill(self, images, masks, avoid):
            asked.extend(avoid)
            return list(images)

    others = [Region("ball", Box(5, 6, 20, 30)), Region("lawn", Box(0, 80, 200, 160))]
    opened(Inpainter(Asking())).process([record(pixels, mask, others=others)])
    expected = np.zeros_like(mask)
    expected[6:30, 5:20] = True
    np.testing.assert_array_equal(asked[0], expected)


def test_large_holes_are_filled_sharply_too():
    pixels, plain, mask = scene(2, height=640, width=800)
    (filled,) = PatchFill(working_area=1500).fill([pixels], [mask], [np.zeros_like(mask)])
    low = mask.copy()
    low[: 640 // 2 + 20] = False

    def roughness(image):
        return np.abs(cv2.Laplacian(image[..., 1].astype(np.float32), cv2.CV_32F))[low].mean()

    assert 0.6 < roughness(filled) / roughness(plain) < 1.5


@pytest.mark.parametrize("backend", FILLS)
def test_fill_is_the_same_again_alone_or_in_company_on_any_number_of_threads(backend):
    images, _, masks = zip(*[scene(s) for s in (4, 5)], strict=True)
    together = backend().fill(images, masks, [np.zeros_like(m) for m in masks])
    threads = cv2.getNumThreads()
    try:
        for count in (1, 4):
            cv2.setNumThreads(count)
            for image, mask, expected in zip(images, masks, together, strict=True):
                np.testing.assert_array_equal(
                    backend().fill([image], [mask], [np.zeros_like(mask)])[0], expected
                )
    finally:
        cv2.setNumThreads(threads)


@settings(max_examples=25)
@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.tuples(*[st.floats(0, 1)] * 4),
    st.sampled_from(FILLS),
)
def test_any_hole_in_any_image_is_filled(width, height, corners, backend):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    x0, x1 = sorted(corners[:2])
    y0, y1 = sorted(corners[2:])
    hole = np.zeros((height, width), bool)
    hole[int(y0 * height) : int(np.ceil(y1 * height)), int(x0 * width) : int(x1 * width) + 1] = True
    (filled,) = backend().fill([pixels], [hole], [np.zeros_like(hole)])
    assert filled.shape == pixels.shape
    assert filled.dtype == np.uint8
    np.testing.assert_array_equal(filled[~hole], pixels[~hole])


def test_fills_refuse_another_device():
    for backend in FILLS:
        with pytest.raises(ValueError, match="cuda:0"):
            backend().load(Device("cuda:0"))


@given(st.integers(0, 2**16), st.integers(0, 6))
@settings(max_examples=30)
def test_blending_never_touches_the_outside(seed, feather):
    rng = np.random.default_rng(seed)
    image, fill = rng.integers(0, 256, (2, 20, 30, 3), dtype=np.uint8)
    hole = cv2.blur(rng.random((20, 30)), (5, 5)) > 0.5
    out = blended(image, fill, hole, feather)
    np.testing.assert_array_equal(out[~hole], image[~hole])
    if feather == 0:
        np.testing.assert_array_equal(out[hole], fill[hole])


def test_candidate_says_what_was_done():
    pixels, _, mask = scene(1)
    stage = opened(Inpainter(PatchFill()))
    assert isinstance(stage.backend, InpainterModel)
    stage.open(Device())
    ((candidate,),) = stage.process([record(pixels, mask)])
    stage.close()
    assert isinstance(candidate, Candidate)
    assert candidate.contrast.kind is Kind.OBJECT
    assert candidate.contrast.target == "red stool"
    assert candidate.contrast.replacement is None
    assert candidate.contrast.instruction == "remove the red stool"
    assert candidate.counterfactual == "There is no red stool in the image."
    assert set(candidate.params) == {"dilation_px", "shadow_px", "hole_share"}
    (region,) = candidate.regions
    hole = region.mask.to_array()
    assert hole[mask].all()
    rows, cols = np.nonzero(hole)
    assert region.box == (cols.min(), rows.min(), cols.max() + 1, rows.max() + 1)
    chosen, rejected = decode(candidate.chosen_image), decode(candidate.rejected_image)
    changed = np.abs(chosen.astype(int) - rejected).max(axis=2)
    assert changed[mask].min() > 30
    # The codec works in blocks of eight: beyond them the two are the same to the last bit.
    far = cv2.dilate(hole.astype(np.uint8), np.ones((17, 17), np.uint8)) == 0
    assert changed[far].max() == 0


def test_a_model_that_repaints_everything_changes_only_the_hole():
    pixels, _, mask = scene(1)
    ((candidate,),) = opened(Inpainter(Painting())).process([record(pixels, mask)])
    hole = candidate.regions[0].mask.to_array()
    far = cv2.dilate(hole.astype(np.uint8), np.ones((17, 17), np.uint8)) == 0
    chosen, rejected = decode(candidate.chosen_image), decode(candidate.rejected_image)
    np.testing.assert_array_equal(chosen[far], rejected[far])
    # No part of the thing itself is cross-faded: the fade lies in what the mask was grown by.
    assert np.abs(rejected[mask].astype(int) - 7).max() < 25


def test_the_mask_grows_by_its_settings_and_more_downwards():
    mask = np.zeros((300, 400), bool)
    mask[100:150, 100:150] = True
    pixels = ground(0, 300, 400)
    stage = opened(Inpainter(Painting(), dilation=0.02, shadow=0.01))
    ((candidate,),) = stage.process([record(pixels, mask)])
    assert candidate.regions[0].box == Box(90, 90, 160, 165)
    exact = opened(Inpainter(Painting(), dilation=0, shadow=0))
    ((candidate,),) = exact.process([record(pixels, mask)])
    np.testing.assert_array_equal(candidate.regions[0].mask.to_array(), mask)


def test_drops_keep_their_place_in_the_batch():
    pixels, _, mask = scene(1)
    everything = np.ones_like(mask)
    nothing = np.zeros_like(mask)
    outcomes = opened(Inpainter(TeleaFill())).process(
        [record(pixels, everything), record(pixels, mask), record(pixels, nothing)]
    )
    assert isinstance(outcomes[0], Drop)
    assert outcomes[0].reason is Reason.REGION_TOO_LARGE
    assert outcomes[0].detail == "red stool: hole covers 100.0% of the image, most 50.0%"
    assert len(outcomes[1]) == 1
    assert outcomes[2].reason is Reason.BAD_SEGMENTATION


def test_a_region_without_mask_is_trouble():
    pixels, _, mask = scene(1)
    one = record(pixels, mask)
    with pytest.raises(ValueError, match="has no mask"):
        opened(Inpainter(TeleaFill())).process(
            [replace(one, known=Known.annotated(one.seed.regions))]
        )


@pytest.mark.parametrize(
    ("other", "box", "told"),
    [
        ("red stool", Box(0, 0, 20, 20), False),
        ("tall red stools", Box(0, 0, 20, 20), False),
        ("blue stool", Box(0, 0, 20, 20), True),
        ("red table", Box(0, 0, 20, 20), True),
        ("red stool", None, True),
    ],
)
def test_absence_is_not_claimed_of_what_is_still_there(other, box, told):
    pixels, _, mask = scene(1)
    own = record(pixels, mask).region.box
    one = record(pixels, mask, others=[Region(other, box or own)])
    ((candidate,),) = opened(Inpainter(TeleaFill())).process([one])
    assert (candidate.counterfactual is not None) is told


@pytest.mark.parametrize("label", ["front wheel", "animal", "stool 3", "girl's stool"])
def test_absence_is_not_claimed_of_what_has_others_unseen(label):
    pixels, _, mask = scene(1)
    one = record(pixels, mask)
    region = Region(label, one.region.box, one.region.mask)
    ((candidate,),) = opened(Inpainter(TeleaFill())).process(
        [replace(one, known=Known.annotated([region]))]
    )
    assert candidate.counterfactual is None


def test_counterfactual_can_be_left_out():
    pixels, _, mask = scene(1)
    stage = opened(Inpainter(TeleaFill(), counterfactual="none"))
    assert stage.process([record(pixels, mask)])[0][0].counterfactual is None


@pytest.mark.parametrize(
    ("label", "sentence"),
    [
        ("Red stool", "There is no red stool in the image."),
        ("dogs", "There are no dogs in the image."),
        ("the dog", "There is no dog in the image."),
        ("Two  Dogs", "There are no dogs in the image."),
        ("people", "There are no people in the image."),
        ("glasses", "There are no glasses in the image."),
        ("glass", "There is no glass in the image."),
        ("bus", "There is no bus in the image."),
        ("slice of pizza", "There is no slice of pizza in the image."),
        ("man with glasses", "There is no man with glasses in the image."),
    ],
)
def test_sentences_of_absence(label, sentence):
    assert absence(label) == sentence


@given(st.text(min_size=1, max_size=30))
def test_a_plain_label_is_one_line_of_lower_case_and_stays_so(text):
    label = plain_label(text)
    assert "\n" not in label
    assert label == " ".join(label.split())
    assert plain_label(plain_label(label)) == plain_label(label)
