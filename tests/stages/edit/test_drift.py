"""Visible changes told from what an editor does to every pixel."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.edit.drift import (
    grown,
    held_together,
    opened,
    similarity,
    tint,
    visible_change,
    without_tint,
)
from tests.stages.edit.planted_editor import ground, scene, softened

DELTA = 10.0


def test_softness_noise_and_tint_are_no_change():
    pixels, _, _ = scene()
    assert not visible_change(pixels, softened(pixels), DELTA).any()
    assert not visible_change(pixels, pixels, DELTA).any()


def test_a_change_is_found_where_it_is():
    pixels, _, _ = scene()
    changed = softened(pixels).astype(int)
    changed[100:160, 250:350] += 60
    found = visible_change(pixels, changed.clip(0, 255).astype(np.uint8), DELTA)
    true = np.zeros_like(found)
    true[100:160, 250:350] = True
    assert (found & true).sum() / (found | true).sum() > 0.85
    area = held_together(found, 0.01)
    assert area[true].all()
    assert not area[:80].any()


def test_tints_are_measured_beside_a_change_and_taken_off():
    pixels = ground(0, 200, 300)
    other = pixels.astype(int) + np.array([9, -7, 4])
    other[:, :120] = 255 - other[:, :120]  # two fifths of the image changed
    other = other.clip(0, 255).astype(np.uint8)
    np.testing.assert_allclose(tint(pixels, other), [9, -7, 4], atol=1)
    even = without_tint(other, tint(pixels, other))
    assert np.abs(even[:, 120:].astype(int) - pixels[:, 120:]).mean() < 1


def test_thin_lines_go_and_things_at_the_border_stay():
    mask = np.zeros((100, 100), bool)
    mask[50:53] = True  # three rows
    mask[0:8, 20:60] = True  # leaves the image
    left = opened(mask, 4)
    assert not left[45:58].any()
    assert left[0:8, 24:56].all()


def test_gaps_close_and_holes_fill():
    mask = np.zeros((400, 400), bool)
    cv2_ring = np.zeros((400, 400), np.uint8)
    cv2.circle(cv2_ring, (200, 200), 60, 1, 8)
    mask |= cv2_ring > 0
    mask[190:196] = False  # cut in two, six rows
    whole = held_together(mask, 0.0)
    assert whole[200, 200]
    assert whole[192, 141]
    assert not held_together(np.zeros((50, 50), bool), 0.01).any()


@given(
    seed=st.integers(0, 999),
    height=st.integers(24, 120),
    width=st.integers(24, 120),
    margin=st.floats(0, 0.05),
)
@settings(max_examples=40)
def test_what_changed_is_always_in_the_area(seed, height, width, margin):
    noise = np.random.default_rng(seed).normal(0, 1, (height, width))
    changed = cv2.GaussianBlur(noise, (0, 0), 5) > 0.12
    area = held_together(changed, margin)
    assert area.shape == changed.shape
    assert (area | changed).sum() == area.sum()
    assert (grown(changed, 2) & changed).sum() == changed.sum()


def test_similarity_is_one_of_equals_and_low_of_strangers():
    pixels, other = ground(0, 200, 300), ground(1, 200, 300)
    everywhere = np.ones((200, 300), bool)
    assert similarity(pixels, pixels, everywhere) == pytest.approx(1.0)
    assert 0.7 < similarity(pixels, softened(pixels), everywhere) < 1
    assert similarity(pixels, other, everywhere) < 0.4
    half = everywhere.copy()
    half[:, 150:] = False
    mixed = np.where(half[..., None], pixels, other)
    assert similarity(pixels, mixed, half) > 0.95 > similarity(pixels, mixed, ~half)
    assert similarity(pixels, other, ~everywhere) == 1.0


def test_similarity_is_what_scikit_image_says():
    metrics = pytest.importorskip("skimage.metrics")
    pixels = ground(0, 120, 160)
    grey = [cv2.cvtColor(p, cv2.COLOR_RGB2GRAY) for p in (pixels, softened(pixels))]
    theirs = metrics.structural_similarity(
        *grey, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255
    )
    ours = similarity(pixels, softened(pixels), np.ones((120, 160), bool))
    # Theirs leaves the border out.
    assert abs(ours - theirs) < 0.01


def test_sizes_must_agree():
    with pytest.raises(ValueError, match="the original"):
        visible_change(ground(0, 50, 60), ground(0, 60, 50), DELTA)
