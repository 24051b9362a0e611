"""Movements that are known, found in images that differ in other ways, too."""

from __future__ import annotations

from functools import lru_cache

import cv2
import numpy as np
import pytest

from stages.edit.registration import Movement, movement

BORDER = 60


@lru_cache
def photo(seed=0, height=600, width=800):
    """Structure at all scales, as in photos."""
    rng = np.random.default_rng(seed)
    layers = [
        scale * cv2.GaussianBlur(rng.normal(0, 1, (height, width, 3)), (0, 0), scale)
        for scale in (1.0, 3.0, 9.0, 27.0)
    ]
    total = sum(layers)
    return (128 + 45 * total / total.std()).clip(0, 255).astype(np.uint8)


def moved(image, movement):
    """The image after a movement, with a border from beyond that was never seen."""
    big = np.pad(image, ((BORDER, BORDER), (BORDER, BORDER), (0, 0)), mode="reflect")
    height, width = big.shape[:2]
    zoom = movement.zoom
    matrix = np.array(
        [
            [zoom, 0, (width - 1) / 2 * (1 - zoom) + movement.dx],
            [0, zoom, (height - 1) / 2 * (1 - zoom) + movement.dy],
        ]
    )
    done = cv2.warpAffine(big, matrix, (width, height), flags=cv2.INTER_LANCZOS4)
    return done[BORDER:-BORDER, BORDER:-BORDER]


def through_a_model(image, seed=1):
    """Softened, tinted and noisy, as what comes out of a decoder."""
    noise = np.random.default_rng(seed).normal(0, 3, image.shape)
    soft = cv2.GaussianBlur(image, (0, 0), 0.8).astype(float) + noise + [5, -4, 3]
    return soft.clip(0, 255).astype(np.uint8)


def edited(image):
    """With another thing over a fifth of it."""
    height, width = image.shape[:2]
    out = image.copy()
    spot = np.zeros((height, width), np.uint8)
    cv2.ellipse(spot, (width // 3, height // 2), (width // 5, height // 3), 0, 0, 360, 1, -1)
    out[spot > 0] = photo(77, height, width)[spot > 0]
    return out, spot > 0


@pytest.mark.parametrize(
    ("dx", "dy", "zoom"),
    [
        (0, 0, 1),
        (0.4, 0.2, 1),
        (1.3, -0.6, 1.0),
        (3.25, 2.5, 1.004),
        (-7.7, 12.2, 0.992),
        (20, -14, 1.01),
    ],
)
def test_a_movement_is_found_and_undone(dx, dy, zoom):
    original = photo()
    true = Movement(dx, dy, zoom, 1)
    changed, spot = edited(through_a_model(moved(original, true)))
    found = movement(original, changed)
    # A tenth of a pixel, at the corners too: they lie 500 px from the middle.
    assert abs(found.dx - dx) < 0.1
    assert abs(found.dy - dy) < 0.1
    assert abs(found.zoom - zoom) * 500 < 0.1
    assert found.confidence > 0.5
    back = found.undone(changed, original)
    inner = np.s_[40:-40, 40:-40]
    kept = cv2.dilate(spot.astype(np.uint8), np.ones((41, 41)))[inner] == 0
    # Against an image that went through the same model and never moved.
    still = through_a_model(original)
    apart = np.abs(back[inner].astype(int) - still[inner])[kept]
    assert apart.mean() < 4  # the noise alone makes 3


def test_small_images_are_shifted_too():
    original = photo(3, 96, 128)
    found = movement(original, moved(original, Movement(2.5, -1.25, 1, 1)))
    assert abs(found.dx - 2.5) < 0.1
    assert abs(found.dy + 1.25) < 0.1
    assert abs(found.zoom - 1) < 0.001


def test_what_has_not_moved_is_not_resampled():
    original = photo()
    np.testing.assert_array_equal(movement(original, original).undone(original, original), original)
    soft = through_a_model(original)
    found = movement(original, soft)
    assert found.undone(soft, original) is soft


@pytest.mark.parametrize("other", [photo(50), np.full((600, 800, 3), 90, np.uint8)])
def test_another_image_has_not_moved_but_is_another(other):
    found = movement(photo(), other)
    assert (found.dx, found.dy, found.zoom) == (0, 0, 1)
    assert found.confidence < 0.25


def test_plain_images_have_nothing_to_go_by():
    plain = np.full((600, 800, 3), 120, np.uint8)
    assert movement(plain, plain) == Movement(0, 0, 1, 0)


def test_what_left_the_view_is_the_originals():
    original = photo(4, 240, 320)
    gone = Movement(12, -7.5, 1, 1)
    assert gone.kept(320, 240) == (0, 8, 308, 240)
    back = gone.undone(moved(original, gone), original)
    np.testing.assert_array_equal(back[:8], original[:8])
    np.testing.assert_array_equal(back[:, 308:], original[:, 308:])
    assert np.abs(back[20:-20, 20:-30].astype(int) - original[20:-20, 20:-30]).mean() < 3
    assert Movement(0, 0, 1.1, 1).kept(101, 201) == (5, 10, 96, 191)  # 50 / 1.1 = 45.5 to each side
    assert Movement(0, 0, 0.9, 1).kept(100, 200) == (0, 0, 100, 200)
    assert Movement(0, 0, 1, 1).kept(100, 200) == (0, 0, 100, 200)


def test_the_corner_that_moves_most():
    assert Movement(3, -4, 1, 1).farthest(100, 200) == 5
    assert Movement(0, 0, 1.01, 1).farthest(300, 400) == pytest.approx(2.5)
    assert str(Movement(1.254, -0.5, 1.00214, 1)) == "1.25,-0.50 x1.0021"


def test_sizes_must_agree():
    with pytest.raises(ValueError, match="the original"):
        movement(photo(), photo(0, 400, 400))
