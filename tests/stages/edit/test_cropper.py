import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.geometry import Box
from schemas.records import Kind, Region, Seed
from stages.edit.cropper import Cropper
from stages.pixels import decode, encode_jpeg


def seed(width=120, height=90, regions=(), seed_id="s"):
    rows, columns = np.mgrid[0:height, 0:width]
    pixels = np.stack([columns * 2 % 256, rows * 2 % 256, np.full_like(rows, 90)], axis=-1)
    image = encode_jpeg(pixels.astype(np.uint8))
    return Seed(seed_id, 0, image, width, height, "What?", "A dog.", None, regions, "test", None)


def crop_of(candidate):
    return Box(*map(int, candidate.params["crop"].split(",")))


@settings(max_examples=40)
@given(st.integers(1, 300), st.integers(1, 300), st.text(max_size=3))
def test_the_crop_lies_inside_with_area_and_shape_in_bounds(width, height, seed_id):
    (candidate,) = Cropper().process_one(seed(width, height, seed_id=seed_id))
    box = crop_of(candidate)
    assert 0 <= box.x0 < box.x1 <= width
    assert 0 <= box.y0 < box.y1 <= height
    assert decode(candidate.rejected_image).shape == (height, width, 3)
    if min(width, height) >= 100:
        assert 0.008 < box.area / (width * height) < 0.22
    if min(width, height) >= 100 and max(width, height) < 2 * min(width, height):
        assert 0.6 < (box.x1 - box.x0) / (box.y1 - box.y0) < 1.6


def test_the_image_is_the_enlarged_crop_and_the_draw_repeats():
    (candidate,) = Cropper().process_one(seed())
    box = crop_of(candidate)
    enlarged = decode(candidate.rejected_image).astype(float)
    middle = enlarged[40:50, 55:65].mean(axis=(0, 1))
    assert middle[0] == pytest.approx(box.x0 + box.x1, abs=6)
    assert middle[1] == pytest.approx(box.y0 + box.y1, abs=6)
    assert candidate.counterfactual is None
    assert candidate.contrast.kind == Kind.CROP
    assert Cropper().process_one(seed())[0] == candidate
    others = {Cropper().process_one(seed(seed_id=str(i)))[0].params["crop"] for i in range(5)}
    assert len(others) == 5


def test_a_crop_that_shows_what_the_answer_names_is_drawn_again():
    plain = {crop_of(Cropper().process_one(seed(seed_id=str(i)))[0]) for i in range(20)}
    for i, box in enumerate(sorted(plain)):
        dog = Region("dog", Box(box.x0 + 1, box.y0 + 1, box.x1 - 1, box.y1 - 1))
        (candidate,) = Cropper(attempts=30).process_one(seed(regions=(dog,), seed_id=str(i)))
        shown = crop_of(candidate).intersection(dog.box).area / dog.box.area
        assert shown <= 0.5


def test_contradictory_areas_are_refused():
    with pytest.raises(ValueError, match="min_area"):
        Cropper(min_area=0.5, max_area=0.2)
