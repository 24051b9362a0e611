"""What the report is made of: outlines, texts cut and marked, limits."""

from __future__ import annotations

import re

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pipeline.report.facts import limit_sign, slack
from pipeline.report.thumbnails import outline, thumbnail
from pipeline.report.words import EXPLANATIONS, safe, segments
from schemas.arrow import to_row
from schemas.geometry import Box, Mask
from schemas.records import Reason, Region
from tests.pipeline.fake_runs import image


def corners(path: str) -> np.ndarray:
    return np.array([[float(v) for v in p] for p in re.findall(r"[ML]([\d.]+) ([\d.]+)", path)])


def test_the_outline_follows_the_mask_in_thumbnail_pixels():
    shown = thumbnail(image(1, 768, 512).bytes)
    assert shown is not None
    assert (shown.width, shown.height, shown.original_size) == (384, 256, (768, 512))
    y, x = np.mgrid[:512, :768]
    mask = ((x - 300) / 120) ** 2 + ((y - 200) / 80) ** 2 <= 1
    region = to_row(Region("it", Box(0, 0, 5, 5), Mask.from_array(mask)))
    points = corners(outline([region], shown))
    distance = ((points[:, 0] - 150) / 60) ** 2 + ((points[:, 1] - 100) / 40) ** 2
    assert len(points) > 12
    assert np.abs(np.sqrt(distance) - 1).max() < 0.06


def test_a_region_without_visible_mask_is_outlined_by_its_box():
    shown = thumbnail(image(1, 768, 512).bytes)
    mask = np.zeros((512, 768), dtype=bool)
    mask[5, 5] = True
    thin = to_row(Region("it", Box(100, 50, 300, 150), Mask.from_array(mask)))
    plain = to_row(Region("it", Box(100, 50, 300, 150)))
    assert outline([thin], shown) == outline([plain], shown) == "M50.0 25.0H150.0V75.0H50.0Z"
    assert outline([], shown) == ""


@given(
    st.text(max_size=60),
    st.lists(st.tuples(st.integers(-3, 70), st.integers(-3, 70)), max_size=4),
)
def test_segments_are_the_text_with_exactly_its_spans_marked(text, spans):
    found = segments(text, spans, limit=100)
    assert "".join(s.text for s in found) == safe(text)
    marked = [m for s in found for m in [s.marked] * len(s.text)]
    expected = [any(a <= i < b for a, b in spans) for i in range(len(text))]
    assert marked == expected


@given(st.text(alphabet="ab ", min_size=30, max_size=200), st.integers(0, 150))
def test_a_cut_answer_still_shows_its_first_difference(text, at):
    at = min(at, len(text) - 2)
    found = segments(text, [(at, at + 2)], limit=24)
    assert "".join(s.text for s in found if s.marked) == text[at : at + 2]
    kept = [s.text for s in found if "characters" not in s.text]
    assert "".join(kept) in text
    assert len("".join(kept)) == 24


@given(st.text())
def test_safe_text_holds_no_control_characters(text):
    shown = safe(text)
    assert len(shown) == len(text)
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", shown)


def test_every_reason_is_explained():
    assert set(EXPLANATIONS) == set(Reason)


def test_slack_and_signs():
    assert slack(("min", 0.5), 0.75) == 0.25
    assert slack(("max", 0.5), 0.75) == -0.25
    assert (limit_sign(("min", 0.5)), limit_sign(("max", 12.0))) == ("≥ 0.5", "≤ 12")
