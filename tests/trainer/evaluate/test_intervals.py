"""Intervals: known numbers, and that rows of one image do not count as independent."""

from __future__ import annotations

import numpy as np
import pytest

from trainer.evaluate.intervals import mean, share, wilson


def test_wilson_known_value():
    # 8 of 10: R's binom.confint(8, 10, methods="wilson") gives 0.4901625 and 0.9433178.
    low, high = wilson(0.8, 10)
    assert low == pytest.approx(0.4901625, abs=1e-6)
    assert high == pytest.approx(0.9433178, abs=1e-6)


def test_a_share_that_is_one_has_an_interval_by_wilson_over_images():
    estimate = share(np.ones(40), np.repeat(np.arange(10), 4))
    assert estimate.method == "wilson over images"
    assert (estimate.rows, estimate.images) == (40, 10)
    # All 10 of 10: n / (n + z2).
    assert estimate.low == pytest.approx(10 / (10 + 1.959964**2))
    assert estimate.high == pytest.approx(1.0)


def test_repeating_rows_of_an_image_narrows_nothing():
    """Each row ten times over: as sure as once, since no new image was seen."""
    generator = np.random.Generator(np.random.PCG64(3))
    hits = (generator.random(60) < 0.7).astype(float)
    images = np.arange(60)
    once = share(hits, images)
    ten_times = share(np.repeat(hits, 10), np.repeat(images, 10))
    assert (once.low, once.high) == pytest.approx((ten_times.low, ten_times.high))
    as_if_independent = share(np.repeat(hits, 10), np.arange(600))
    assert as_if_independent.high - as_if_independent.low < 0.5 * (once.high - once.low)


def test_the_bootstrap_agrees_with_theory_where_rows_are_independent():
    generator = np.random.Generator(np.random.PCG64(4))
    hits = (generator.random(400) < 0.6).astype(float)
    estimate = share(hits, np.arange(400))
    half = 1.96 * np.sqrt(estimate.value * (1 - estimate.value) / 400)
    assert estimate.low == pytest.approx(estimate.value - half, abs=0.01)
    assert estimate.high == pytest.approx(estimate.value + half, abs=0.01)
    assert share(hits, np.arange(400)) == estimate


def test_a_mean_over_one_image_is_not_sure_of_anything():
    estimate = mean(np.array([1.0, 2.0]), np.array([0, 0]))
    assert estimate.value == 1.5
    assert (estimate.low, estimate.high, estimate.method) == (None, None, "none")


def test_no_rows_are_refused():
    with pytest.raises(ValueError, match="at least one row"):
        share(np.array([]), np.array([], dtype=np.int64))
