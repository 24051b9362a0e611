"""Images on canvases and back: sizes, boxes, pixels."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from schemas.geometry import Box
from stages.edit.canvas import Size, canvas_for, covered, elongation, fixed_points, resized, size_of

MEGAPIXEL = 1024 * 1024
MAX_ELONGATION = 3.0


def qwen_rule(ratio):
    from diffusers.pipelines.qwenimage.pipeline_qwenimage_edit_plus import calculate_dimensions

    return calculate_dimensions(MEGAPIXEL, ratio)


@pytest.fixture(scope="module")
def sizes():
    return fixed_points(qwen_rule, 32, MAX_ELONGATION)


def test_an_editor_leaves_the_sizes_alone_and_no_other_is_left_alone(sizes):
    assert Size(1024, 1024) in sizes
    assert Size(1184, 896) in sizes
    sides = range(32, 2049, 32)
    alone = {Size(w, h) for w in sides for h in sides if qwen_rule(w / h) == (w, h)}
    assert set(sizes) == {size for size in alone if elongation(size) <= MAX_ELONGATION}
    # A size of the same area that the rule does change, or the test above would prove little.
    assert qwen_rule(640 / 480) != (640, 480)
    assert qwen_rule(1152 / 864) != (1152, 864)


def test_the_rule_of_the_first_edit_model_is_the_same(sizes):
    from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit

    assert (
        fixed_points(
            lambda ratio: pipeline_qwenimage_edit.calculate_dimensions(MEGAPIXEL, ratio)[:2],
            32,
            MAX_ELONGATION,
        )
        == sizes
    )


sources = st.builds(Size, st.integers(33, 3000), st.integers(33, 3000)).filter(
    lambda size: elongation(size) <= MAX_ELONGATION
)


@given(source=sources)
@example(source=Size(640, 480))
@example(source=Size(333, 500))
@settings(max_examples=200)
def test_a_image_is_scaled_by_one_factor_up_to_half_a_pixel(sizes, source):
    canvas = canvas_for(source, sizes)
    assert canvas.size in sizes
    scale = min(canvas.size.width / source.width, canvas.size.height / source.height)
    assert abs(canvas.content.width - source.width * scale) <= 0.5
    assert abs(canvas.content.height - source.height * scale) <= 0.5
    # It reaches from edge to edge in one direction, and lies in the middle of the other.
    assert canvas.content.width == canvas.size.width or canvas.content.height == canvas.size.height
    for lead, content, whole in (
        (canvas.left, canvas.content.width, canvas.size.width),
        (canvas.top, canvas.content.height, canvas.size.height),
    ):
        assert 0 <= lead <= whole - content - lead <= lead + 1


@given(source=sources)
@settings(max_examples=200)
def test_little_of_a_canvas_is_border(sizes, source):
    canvas = canvas_for(source, sizes)
    filled = canvas.content.width * canvas.content.height / (canvas.size.width * canvas.size.height)
    # The sizes lie at most 6 % apart in aspect up to 3:1, but for the ends.
    assert filled > 0.93


boxes = st.tuples(*[st.floats(0, 1)] * 4).map(
    lambda t: Box(min(t[0], t[2]), min(t[1], t[3]), max(t[0], t[2]), max(t[1], t[3]))
)


@given(source=sources, share=boxes)
@settings(max_examples=200)
def test_boxes_go_there_and_back(sizes, source, share):
    canvas = canvas_for(source, sizes)
    box = share.scaled(source.width, source.height)
    there = canvas.to_canvas(box)
    assert all(np.isclose(canvas.from_canvas(there), box, atol=1e-6))
    whole = canvas.to_canvas(Box(0, 0, source.width, source.height))
    right, bottom = canvas.left + canvas.content.width, canvas.top + canvas.content.height
    assert all(np.isclose(whole, (canvas.left, canvas.top, right, bottom), atol=1e-6))


def photo(height, width, seed=0):
    """Smooth structure, so that resampling loses next to nothing."""
    noise = np.random.default_rng(seed).normal(128, 400, (height, width, 3))
    return cv2.GaussianBlur(noise, (0, 0), 4).clip(0, 255).astype(np.uint8)


@given(
    source=st.builds(Size, st.integers(40, 200), st.integers(40, 200)).filter(
        lambda size: elongation(size) <= 3
    ),
    seed=st.integers(0, 99),
)
@settings(max_examples=40)
def test_a_image_comes_back_in_its_place(source, seed):
    canvas = canvas_for(source, [Size(256, 256), Size(320, 192), Size(192, 320)])
    image = photo(source.height, source.width, seed)
    placed = canvas.place(image)
    assert size_of(placed) == canvas.size
    back = canvas.restore(placed)
    assert size_of(back) == source
    # Two resamplings of an image without fine detail: a level or two. A shift by one pixel
    # changes the same images by more than 3 in the mean.
    assert np.abs(back.astype(int) - image).mean() < 1.0


def test_a_image_of_a_canvas_size_is_not_resampled():
    image = photo(192, 320)
    canvas = canvas_for(Size(320, 192), [Size(256, 256), Size(320, 192)])
    np.testing.assert_array_equal(canvas.place(image), image)
    np.testing.assert_array_equal(canvas.restore(image), image)
    assert str(canvas) == "320x192, 320x192 at 0,0"


def test_the_border_mirrors_the_image():
    image = photo(100, 160)
    canvas = canvas_for(Size(160, 100), [Size(160, 120)])
    placed = canvas.place(image)
    np.testing.assert_array_equal(placed[10:110], image)
    np.testing.assert_array_equal(placed[9], image[1])
    np.testing.assert_array_equal(placed[0], image[10])
    np.testing.assert_array_equal(placed[119], image[89])


def test_wrong_sizes_are_refused():
    canvas = canvas_for(Size(160, 100), [Size(160, 128)])
    with pytest.raises(ValueError, match="image is 100x160, expected 160x100"):
        canvas.place(photo(160, 100))
    with pytest.raises(ValueError, match="image is 160x100, expected 160x128"):
        canvas.restore(photo(100, 160))
    with pytest.raises(ValueError, match="no canvas sizes"):
        canvas_for(Size(160, 100), [])


def test_covering_cuts_what_sticks_out_and_stretches_nothing():
    disc = np.zeros((200, 300, 3), np.uint8)
    cv2.circle(disc, (150, 100), 60, (255, 255, 255), cv2.FILLED)
    out = covered(disc, Size(96, 96))
    assert size_of(out) == (96, 96)
    rows, columns = np.nonzero(out[..., 0] > 127)
    # A disc of 121 px, at 96/200 of its size: 58 px in both directions.
    assert abs((np.ptp(rows) + 1) - 58) <= 1
    assert abs((np.ptp(columns) + 1) - 58) <= 1
    assert abs(rows.mean() - 47.5) < 0.6
    assert abs(columns.mean() - 47.5) < 0.6


def test_resizing_averages():
    fine = np.zeros((64, 64, 3), np.uint8)
    fine[::2, ::2] = 255
    assert np.ptp(resized(fine, Size(8, 8))[2:6, 2:6]) <= 4
