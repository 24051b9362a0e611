"""Vectors of seeds' images: one for each image, of unit length, or trouble."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pytest

from fakes.opened import opened
from schemas.ids import content_id
from schemas.records import Seed
from stages.base import CpuBackend
from stages.decide.vectorizer import Vectorizer, VectorModel
from stages.pixels import encode_jpeg


@dataclass
class Rows(CpuBackend):
    """Gives the prepared rows, and remembers how many images it saw."""

    name = "rows"

    rows: list
    seen: list = field(default_factory=list)

    def embed(self, images):
        self.seen.append(len(images))
        return np.array(self.rows, np.float32)


def seed(name, grey):
    image = encode_jpeg(np.full((16, 16, 3), grey, np.uint8))
    return Seed(name, 0, image, 16, 16, "?", "A.", None, (), "t", None)


def test_seeds_about_one_image_share_a_vector_of_length_one():
    backend = Rows([[0.6, 0.8], [0.0, 1.001]])
    assert isinstance(backend, VectorModel)
    seeds = [seed("a", 10), seed("b", 200), seed("c", 10)]
    outcomes = [found for (found,) in opened(Vectorizer(backend)).process(seeds)]
    assert backend.seen == [2]
    assert [found.seed_id for found in outcomes] == ["a", "b", "c"]
    assert outcomes[0].vector == outcomes[2].vector == pytest.approx((0.6, 0.8))
    assert outcomes[1].vector == (0.0, 1.0)
    assert outcomes[0].image_id == content_id(seeds[0].image.bytes)


@pytest.mark.parametrize("rows", [[[0, 0, 0]], [[np.nan, 0, 1]], [[3, 4, 0]], [[1, 0, 0]] * 2])
def test_what_is_no_unit_vector_is_trouble(rows):
    with pytest.raises(ValueError, match=r"Rows gave .* (unit length|one row each) is expected"):
        opened(Vectorizer(Rows(rows))).process([seed("a", 10)])
