from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.geometry import Box, Mask
from tests.schemas.strategies import bool_arrays

corners = st.floats(-50, 150)
boxes = st.builds(
    lambda a, b, c, d: Box(min(a, b), min(c, d), max(a, b), max(c, d)),
    corners,
    corners,
    corners,
    corners,
)


def test_a_mask_by_hand():
    array = np.array([[0, 1, 1], [1, 1, 0]], dtype=bool)
    # Down the columns: 0 1 | 1 1 | 1 0
    assert Mask.from_array(array) == Mask(2, 3, (1, 4, 1))
    assert Mask.from_array(~array).counts == (0, 1, 4, 1)


@given(bool_arrays)
def test_masks_survive_the_round_trip(array):
    mask = Mask.from_array(array)
    assert np.array_equal(mask.to_array(), array)
    assert mask.area == array.sum()
    assert all(run > 0 for run in mask.counts[1:])


@pytest.mark.parametrize("counts", [(5,), (7,), (3, -3, 6), ()])
def test_runs_that_do_not_fill_the_image_are_refused(counts):
    with pytest.raises(ValueError, match="2x3 needs 6"):
        Mask(2, 3, counts).to_array()


def test_a_mask_is_two_dimensional():
    with pytest.raises(ValueError, match=r"shape \(2, 2, 3\)"):
        Mask.from_array(np.zeros((2, 2, 3), dtype=bool))


def test_box_measures_by_hand():
    a, b = Box(0, 0, 4, 4), Box(2, 2, 6, 4)
    assert a.intersection(b) == Box(2, 2, 4, 4)
    assert a.iou(b) == pytest.approx(4 / (16 + 8 - 4))
    assert a.iou(Box(9, 9, 12, 12)) == 0
    assert Box(3, 3, 3, 9).area == 0
    assert Box(1.2, 2.8, 3.1, 99).pixels(50, 40) == (1, 2, 4, 40)
    assert Box(1, 2, 3, 4).scaled(2, 0.5) == Box(2, 1, 6, 2)


@given(boxes, st.integers(1, 100), st.integers(1, 100))
def test_a_clipped_box_lies_inside(box, width, height):
    clipped = box.clipped(width, height)
    assert 0 <= clipped.x0 <= clipped.x1 <= width
    assert 0 <= clipped.y0 <= clipped.y1 <= height
    assert clipped.area <= box.area + 1e-9
    assert clipped.clipped(width, height) == clipped


@given(boxes, boxes)
def test_overlap_is_symmetric_and_bounded(a, b):
    assert a.iou(b) == pytest.approx(b.iou(a))
    assert 0 <= a.iou(b) <= 1 + 1e-9
    if a.area > 0:
        assert a.iou(a) == pytest.approx(1)
