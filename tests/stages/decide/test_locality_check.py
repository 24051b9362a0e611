import io
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from pipeline.demo.scenes import scene
from schemas.geometry import Box, Mask
from schemas.records import (
    Candidate,
    Contrast,
    Drop,
    Image,
    Kind,
    Reason,
    Region,
    ScoredCandidate,
    Seed,
    Verdict,
)
from stages.decide.locality_check import LocalityCheck
from stages.pixels import encode_jpeg, encode_pair

SIDE = 128
NOISE = np.random.default_rng(0).integers(90, 130, (SIDE, SIDE, 3), np.uint8)


def square(x0, y0, x1, y1):
    mask = np.zeros((SIDE, SIDE), bool)
    mask[y0:y1, x0:x1] = True
    return mask


def painted(mask, color=(220, 30, 30), image=NOISE):
    return np.where(mask[:, :, None], np.array(color, np.uint8), image)


def scored(chosen, rejected, *masks):
    # The seed is lossless: both images of the pair then see the codec once.
    sink = io.BytesIO()
    PIL.Image.fromarray(chosen).save(sink, "PNG")
    original, edited = encode_pair(Image(sink.getvalue()), np.ascontiguousarray(rejected))
    height, width = chosen.shape[:2]
    seed = Seed("a", 0, original, width, height, "?", "A.", None, (), "test", None)
    contrast = Contrast(Kind.OBJECT, "ring", None, "remove the ring")
    regions = tuple(Region("r", Box(0, 0, width, height), Mask.from_array(m)) for m in masks)
    candidate = Candidate(seed, contrast, regions, original, edited, None, {})
    return ScoredCandidate(candidate, {"detail": 0.5})


def test_a_change_inside_alone_is_accepted_and_measured():
    mask = square(30, 40, 70, 90)
    record = scored(NOISE, painted(mask), mask)
    (verified,) = LocalityCheck().process_one(record)
    assert verified.candidate is record.candidate
    assert verified.scores == {"detail": 0.5, "changed_inside": 1.0, "changed_outside": 0.0}
    assert verified.verdict == Verdict(
        accepted=True,
        verifier="locality",
        detail="100.00% of the region changed, 0.00% outside",
    )


def test_the_changed_share_is_that_of_the_region():
    mask = square(32, 32, 96, 96)
    half = scored(NOISE, painted(square(32, 32, 64, 96)), mask)
    (verified,) = LocalityCheck().process_one(half)
    # The codec carries no change over a block's edge, and 64 is one.
    assert verified.scores["changed_inside"] == pytest.approx(0.5, abs=0.01)


def test_nothing_changed_is_a_drop():
    mask = square(30, 40, 70, 90)
    drop = LocalityCheck().process_one(scored(NOISE, NOISE, mask))
    assert drop == Drop(Reason.NO_CHANGE_INSIDE, "0.00% of the region changed, at least 15.00%")


def test_too_little_change_inside_is_a_drop_and_a_setting():
    record = scored(NOISE, painted(square(32, 32, 40, 96)), square(32, 32, 96, 96))
    drop = LocalityCheck().process_one(record)
    assert drop.reason == Reason.NO_CHANGE_INSIDE
    assert not isinstance(LocalityCheck(min_inside=0.1).process_one(record), Drop)


def test_a_change_elsewhere_is_a_drop_with_its_share():
    mask = square(10, 10, 50, 50)
    both = painted(mask | square(96, 104, 112, 120))
    drop = LocalityCheck().process_one(scored(NOISE, both, mask))
    assert drop.reason == Reason.CHANGE_OUTSIDE
    # 256 pixels, on whole blocks of the codec, of those more than 12 px away from the square.
    share = 256 / (SIDE**2 - 62 * 62)
    assert drop.detail.startswith(f"{share:.2%} outside")
    loose = LocalityCheck(max_outside=0.05).process_one(scored(NOISE, both, mask))
    assert loose[0].scores["changed_outside"] == pytest.approx(share, rel=0.05)


def test_an_edge_softer_than_the_mask_is_within_the_margin():
    mask = square(30, 30, 80, 80)
    record = scored(NOISE, painted(square(26, 26, 84, 84)), mask)
    assert not isinstance(LocalityCheck().process_one(record), Drop)
    assert LocalityCheck(margin=0).process_one(record).reason == Reason.CHANGE_OUTSIDE


@settings(max_examples=25)
@given(st.data())
def test_a_local_edit_never_shows_beyond_one_block(data):
    x0, y0 = (data.draw(st.integers(0, SIDE - 8)) for _ in range(2))
    x1 = data.draw(st.integers(x0 + 4, SIDE))
    y1 = data.draw(st.integers(y0 + 4, SIDE))
    color = data.draw(st.tuples(*[st.integers(0, 255)] * 3))
    mask = square(x0, y0, x1, y1)
    check = LocalityCheck(margin=8, min_inside=0.0, max_outside=0.0, visible_delta=0.1)
    (verified,) = check.process_one(scored(NOISE, painted(mask, color), mask))
    assert verified.scores["changed_outside"] == 0


@settings(max_examples=25)
@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_loosening_never_drops_more(inside, outside, lower, higher):
    mask = square(16, 16, 80, 80)
    record = scored(NOISE, painted(square(16, 16, 48, 80) | square(96, 96, 128, 128)), mask)
    tight = LocalityCheck(min_inside=inside, max_outside=outside)
    loose = replace(tight, min_inside=min(inside, lower), max_outside=max(outside, higher))
    if not isinstance(tight.process_one(record), Drop):
        assert not isinstance(loose.process_one(record), Drop)


def test_several_regions_count_together():
    masks = square(8, 8, 40, 40), square(72, 72, 104, 104)
    record = scored(NOISE, painted(masks[0] | masks[1]), *masks)
    (verified,) = LocalityCheck().process_one(record)
    assert verified.scores["changed_inside"] == 1.0
    only_first = scored(NOISE, painted(masks[0]), *masks)
    (verified,) = LocalityCheck().process_one(only_first)
    assert verified.scores["changed_inside"] == pytest.approx(0.5, abs=0.01)


def test_a_region_that_fills_the_image_has_no_outside():
    mask = np.ones((SIDE, SIDE), bool)
    (verified,) = LocalityCheck().process_one(scored(NOISE, painted(mask), mask))
    assert verified.scores["changed_outside"] == 0


def test_mirrored_scenes_pass_and_a_symmetric_image_does_not():
    for index in range(10):
        pixels = scene(2, index, SIDE).pixels
        (verified,) = LocalityCheck().process_one(scored(pixels, pixels[:, ::-1]))
        assert verified.scores["changed_inside"] > 0.05
        assert verified.verdict.detail.count("image") == 1
    symmetric = np.concatenate([NOISE[:, : SIDE // 2], NOISE[:, : SIDE // 2][:, ::-1]], axis=1)
    drop = LocalityCheck().process_one(scored(symmetric, symmetric[:, ::-1]))
    assert drop.reason == Reason.NO_CHANGE_INSIDE
    assert "of the image" in drop.detail


def test_scenes_recolored_in_the_true_mask_pass():
    for index in range(10):
        image = scene(2, index, 192)
        mask = image.objects[0].mask
        edited = np.where(mask[:, :, None], image.pixels[:, :, [2, 0, 1]], image.pixels)
        (verified,) = LocalityCheck().process_one(scored(image.pixels, edited, mask))
        assert verified.scores["changed_inside"] > 0.8


def test_a_region_without_a_mask_is_its_box():
    mask = square(30, 40, 70, 90)
    record = scored(NOISE, painted(mask))
    boxed = replace(record.candidate, regions=(Region("r", Box(30, 40, 70, 90)),))
    (verified,) = LocalityCheck().process_one(replace(record, candidate=boxed))
    assert verified.scores["changed_inside"] == 1.0


def test_what_does_not_fit_is_trouble():
    record = scored(NOISE, NOISE, square(0, 0, 0, 0))
    with pytest.raises(ValueError, match="no pixels"):
        LocalityCheck().process_one(record)
    with pytest.raises(ValueError, match="64x64"):
        LocalityCheck().process_one(scored(NOISE, NOISE, np.ones((64, 64), bool)))
    other = replace(record.candidate, rejected_image=encode_jpeg(NOISE[:64]))
    with pytest.raises(ValueError, match="keep the size"):
        LocalityCheck().process_one(replace(record, candidate=other))


def test_settings_are_checked():
    adapter = TypeAdapter(LocalityCheck)
    assert adapter.validate_python({"margin": 3}) == LocalityCheck(margin=3)
    for wrong in ({"margin": -1}, {"min_inside": 2}, {"inside": 0.1}):
        with pytest.raises(ValidationError):
            adapter.validate_python(wrong)
