"""Paintings and originals brought to one size, by a painter that notes what it was asked."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes.opened import opened
from schemas.records import Contrast, Drop, Image, Kind, Reason, Seed
from schemas.texts import AnswerPair, Described, Judged, Sampled, SampledAnswer
from stages.base import CpuBackend
from stages.edit.canvas import Size
from stages.edit.synthesizer import Synthesizer, SynthesizerBackend
from stages.pixels import decode, encode_jpeg


@dataclass
class Noted(CpuBackend):
    """Paints a white disc in the middle, on a ground of the seed's colour."""

    name = "noted"

    max_tokens: int = 10
    asked: list[tuple[list[str], list[int], Size]] = field(default_factory=list)

    def count_tokens(self, descriptions):
        return [len(text.split()) for text in descriptions]

    def synthesize(self, descriptions, seeds, size):
        self.asked.append((list(descriptions), list(seeds), size))
        made = []
        for seed in seeds:
            pixels = np.full((size.height, size.width, 3), seed % 200, np.uint8)
            middle = (size.width // 2, size.height // 2)
            cv2.circle(pixels, middle, min(size) // 4, (255, 255, 255), cv2.FILLED)
            made.append(pixels)
        return made


def described(width, height, description="a blue bus at a tree", seed_id="s"):
    pixels = np.full((height, width, 3), 90, np.uint8)
    cv2.circle(pixels, (width // 2, height // 2), min(width, height) // 4, (255, 255, 255), -1)
    image = Image(encode_jpeg(pixels).bytes, "bus.jpg")
    seed = Seed(seed_id, 3, image, width, height, "What?", "A red car.", None, (), "t:1", None)
    judged = Judged(Sampled(seed, (SampledAnswer("A blue bus.", 2),), 4), (1,))
    pair = AnswerPair(judged, "A red car.", None, "A blue bus.", 1)
    return Described(pair, description, Contrast(Kind.SCENE, "image", "a blue bus", description))


def painted(*records, **settings):
    backend = Noted()
    return opened(Synthesizer(backend, **settings)).process(records), backend


def disc(pixels):
    rows, columns = np.nonzero(pixels[..., 0] > 220)
    return np.ptp(columns) + 1, np.ptp(rows) + 1


def test_a_painting_becomes_a_candidate():
    ((candidate,),), backend = painted(described(512, 512))
    assert backend.asked[0][2] == Size(384, 384)
    assert candidate.contrast.kind is Kind.SCENE
    assert candidate.counterfactual == "A blue bus."
    assert candidate.texts.chosen == "A red car."
    assert candidate.regions == ()
    assert candidate.params["painted"] == "384x384"
    assert candidate.params["attempt"] == "0"
    assert candidate.params["samples"] == "4"
    assert candidate.chosen_image.path == "bus.jpg"
    for image in (candidate.chosen_image, candidate.rejected_image):
        assert decode(image).shape == (384, 384, 3)
        assert disc(decode(image)) == pytest.approx((193, 193), abs=3)


@given(width=st.integers(64, 1100), height=st.integers(64, 1100), side=st.sampled_from([128, 384]))
@settings(max_examples=40)
def test_both_images_end_alike_whatever_the_original(width, height, side):
    record = described(width, height)
    (outcome,), backend = painted(record, side=side)
    if max(width, height) > 3 * min(width, height):
        assert outcome.reason is Reason.EXTREME_ASPECT
        assert backend.asked == []
        return
    size = backend.asked[0][2]
    assert size.width % 16 == size.height % 16 == 0
    # About the same area, in about the original's shape: sides are rounded to 16.
    assert 0.75 < size.width * size.height / side**2 < 1.35
    assert 0.8 < (width / height) / size.aspect < 1.25
    (candidate,) = outcome
    first, second = decode(candidate.chosen_image), decode(candidate.rejected_image)
    assert first.shape == second.shape
    # Nothing is enlarged.
    assert first.shape[0] <= min(height, size.height)
    assert first.shape[1] <= min(width, size.width)
    # Nothing is stretched.
    for pixels in (first, second):
        across, down = disc(pixels)
        assert abs(across - down) <= 2 + 0.02 * across


def test_little_is_lost_of_an_original_in_its_own_shape():
    for width, height in ((1024, 768), (768, 1024), (1000, 563), (640, 427)):
        ((candidate,),), _ = painted(described(width, height))
        out = decode(candidate.chosen_image)
        kept_height, kept_width, _ = out.shape
        scale = max(kept_width / width, kept_height / height)
        assert kept_width * kept_height / (width * height * scale**2) > 0.97


def test_a_square_is_cut_from_the_middle():
    ((candidate,),), backend = painted(described(800, 400), shape="square")
    assert backend.asked[0][2] == Size(384, 384)
    out = decode(candidate.chosen_image)
    assert out.shape == (384, 384, 3)
    assert disc(out) == pytest.approx((193, 193), abs=3)


def test_images_of_one_size_go_together_and_seeds_are_the_rows_own():
    records = [
        described(512, 512, "one"),
        described(900, 600, "two", "t"),
        described(600, 600, "three", "u"),
        described(512, 512, "one again"),
    ]
    outcomes, backend = painted(*records, num_images=2)
    assert [size for _, _, size in backend.asked] == [Size(384, 384), Size(480, 320)]
    assert backend.asked[0][0] == ["one", "one", "three", "three", "one again", "one again"]
    seeds = [seed for _, own, _ in backend.asked for seed in own]
    assert len(set(seeds)) == 8  # of one seed's descriptions, too
    assert [[c.params["attempt"] for c in outcome] for outcome in outcomes] == [["0", "1"]] * 4
    alone, lonely = painted(records[1], num_images=2)
    assert alone == [outcomes[1]]
    assert lonely.asked[0][1] == backend.asked[1][1]


def test_what_cannot_be_painted_is_dropped_before_the_model():
    (wide, long, good), backend = painted(
        described(900, 200), described(512, 512, "word " * 11), described(512, 512)
    )
    assert wide == Drop(
        Reason.EXTREME_ASPECT, "the image is 900x200, 4.50 to 1; at most 3 to 1 is painted"
    )
    assert long.reason is Reason.TEXT_TOO_LONG
    assert long.detail == "the description takes 11 tokens, the painter reads 10"
    assert len(good) == 1
    assert len(backend.asked) == 1
    assert painted()[0] == []


def test_protocol_and_backends():
    backend = Noted()
    assert isinstance(backend, SynthesizerBackend)
    assert opened(Synthesizer(backend)).backends() == (backend,)
