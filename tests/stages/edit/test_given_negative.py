"""Pairs that the input brought become candidates of one size and codec."""

from __future__ import annotations

import io

import numpy as np
import PIL.Image
import pytest

from schemas.records import Candidate, Drop, GivenNegative, Image, Kind, Reason, Seed
from stages.edit.given_negative import UseGivenNegative
from stages.pixels import decode


def png(pixels: np.ndarray) -> Image:
    sink = io.BytesIO()
    PIL.Image.fromarray(pixels).save(sink, "PNG")
    return Image(sink.getvalue())


def halves(width: int, height: int, left=(200, 30, 30), right=(30, 30, 200)) -> np.ndarray:
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, : width // 2], pixels[:, width // 2 :] = left, right
    return pixels


def seed(other: np.ndarray | None, answer: str | None = "Two dogs run.", kind=Kind.COUNT) -> Seed:
    return Seed(
        seed_id="a",
        run_seed=0,
        image=png(halves(80, 60)),
        width=80,
        height=60,
        prompt="Describe the image.",
        chosen="Three dogs run.",
        rejected=None,
        regions=(),
        source="x",
        license=None,
        given_negative=None
        if other is None
        else GivenNegative(png(other), answer, kind, {"similarity": "0.8"}),
    )


def made(stage: UseGivenNegative, record: Seed) -> Candidate:
    (candidate,) = stage.process_one(record)
    return candidate


def test_a_given_negative_of_the_same_size_keeps_its_pixels():
    other = halves(80, 60, left=(10, 200, 10))
    candidate = made(UseGivenNegative(), seed(other))
    assert candidate.contrast.kind is Kind.COUNT
    assert (candidate.contrast.target, candidate.contrast.replacement) == ("Three", "Two")
    assert candidate.counterfactual == "Two dogs run."
    assert candidate.seed.given_negative is None
    assert np.abs(decode(candidate.rejected_image).astype(int) - other).max() <= 12  # the codec
    assert candidate.params == {"similarity": "0.8", "given_size": "80x60"}
    headers = [candidate.chosen_image.bytes[:2], candidate.rejected_image.bytes[:2]]
    assert headers == [b"\xff\xd8"] * 2


@pytest.mark.parametrize(("width", "height"), [(160, 120), (40, 30), (90, 60), (80, 70)])
def test_cover_keeps_the_middle_in_the_middle(width, height):
    candidate = made(UseGivenNegative(), seed(halves(width, height)))
    pixels = decode(candidate.rejected_image).astype(int)
    assert pixels.shape == (60, 80, 3)
    # The border between the halves is at the middle of the original's width, whatever was cut.
    assert pixels[:, 36].mean(axis=0)[0] > 150
    assert pixels[:, 43].mean(axis=0)[2] > 150


def test_a_shape_too_different_is_dropped_unless_it_is_stretched():
    square = halves(60, 60)
    assert isinstance(made(UseGivenNegative(), seed(square)), Candidate)  # 25 % is cut off
    drop = UseGivenNegative(max_loss=0.2).process_one(seed(square))
    assert isinstance(drop, Drop)
    assert drop.reason is Reason.SHAPE_MISMATCH
    assert "60x60" in drop.detail
    assert "25%" in drop.detail
    marked = square.copy()
    marked[:6] = 255  # a white band that `cover` would cut off
    stretched = made(UseGivenNegative(fit="stretch", max_loss=0.2), seed(marked))
    assert decode(stretched.rejected_image)[2].min() > 230


@pytest.mark.parametrize(("other", "answer"), [(None, "x"), (halves(80, 60), None),
                                               (halves(80, 60), "  ")])  # fmt: skip
def test_half_a_pair_is_no_pair(other, answer):
    drop = UseGivenNegative().process_one(seed(other, answer))
    assert isinstance(drop, Drop)
    assert drop.reason is Reason.NO_GIVEN_NEGATIVE


def test_the_answer_may_come_later():
    candidate = made(UseGivenNegative(needs_answer=False), seed(halves(80, 60), None))
    assert candidate.counterfactual is None
    assert candidate.contrast.target == "image"


def test_the_kind_falls_back_to_the_recipes():
    stage = UseGivenNegative(default_kind=Kind.SCENE)
    assert made(stage, seed(halves(80, 60), kind=None)).contrast.kind is Kind.SCENE
