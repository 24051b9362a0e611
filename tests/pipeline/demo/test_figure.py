"""The figure of one pair: both images, side by side, with their answers under them."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest

from pipeline.demo.figure import _pieces, _wrapped, main
from schemas.files import Folder
from schemas.records import Span
from schemas.shards import write_data
from tests.pipeline.fake_runs import image, pair, write_run


def test_both_images_stand_side_by_side(tmp_path):
    run = write_run(tmp_path / "run", [pair("one", 3, image=image(3, 600, 400))])
    write_data(Folder.at(run), [0], "test")
    out = tmp_path / "pair.png"
    assert main([run, "one", "--output", str(out)]) == 0
    with PIL.Image.open(out) as figure:
        pixels = np.asarray(figure.convert("RGB")).astype(int)
    middle = pixels.shape[1] // 2
    assert (pixels[:, middle] == 255).all(), "a gap between the two"
    left, right = (side[60:400].std() for side in (pixels[:, :middle], pixels[:, middle:]))
    assert min(left, right) > 5, "an image on either side"
    assert (pixels[-60:] < 128).any(), "text below"


def test_a_pair_that_is_not_there(tmp_path, caplog):
    run = write_run(tmp_path / "run", [pair("one", 3)])
    write_data(Folder.at(run), [0], "test")
    assert main([run, "two", "--output", str(tmp_path / "x.png")]) == 2
    assert "no pair with pair_id or seed_id 'two'" in caplog.text


@pytest.mark.parametrize("width", [60, 150, 10_000])
def test_lines_hold_every_word_once(width):
    text = "There is one yellow ring and two green triangles."
    lines = [text[start:end] for start, end in _wrapped(text, width)]
    assert " ".join(lines) == text
    assert len(lines) > 1 or width == 10_000


def test_differing_words_are_cut_out():
    text = "a red cup and a blue cup"
    pieces = list(_pieces(text, (0, 13), [Span(2, 5), Span(16, 20)]))
    assert pieces == [("a ", False), ("red", True), (" cup and", False)]
