"""Rows that do not fit are left out whole, and counted; tokens are counted without processing."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest
import torch

from fakes.pairs import SIZES, a_pair, a_row, save
from fakes.tiny.vlm import FAMILIES
from schemas.records import Image
from trainer.data.batches import BatchBuilder, decode
from trainer.data.fits import fit
from trainer.data.rows import Rows
from trainer.errors import UsageError
from trainer.families import Family
from trainer.losses import DPO, ICVCO, MDPO, SVCO


def longest(build, row):
    """Tokens of the row's longest view, from a real batch without shared prompts."""
    return max(len(packed.ids) for packed in build([row], 0).packed)


@pytest.mark.parametrize("name", FAMILIES)
def test_rows_are_measured_exactly(checkpoint, tmp_path, name):
    family = checkpoint(name).family
    views = SVCO().views | MDPO().views
    views |= ICVCO().views if family.several_images else frozenset()
    build = BatchBuilder(family, views, 3, share_prompts=False)
    pairs = [a_pair(n) for n in range(5)]
    rows = Rows.open([save(tmp_path, pairs)])
    lengths = [longest(build, rows[n]) for n in range(5)]
    for limit in sorted(set(lengths)):
        kept, report = fit(rows, build, limit)
        assert kept.pair_ids == [
            p.pair_id for p, length in zip(pairs, lengths, strict=True) if length <= limit
        ]
        assert report.kept == len(kept)
        assert len(report.too_long) == 5 - len(kept)
    with pytest.raises(UsageError, match=f"5 have more than {min(lengths) - 1} tokens; 0 are left"):
        fit(rows, build, min(lengths) - 1)


def test_the_models_context_is_a_limit_in_any_case(checkpoint, tmp_path):
    family = checkpoint("llava-interleave").family
    build = BatchBuilder(family, SVCO().views, 3)
    pairs = [a_pair(0), a_pair(1, counterfactual="The ring is red. " * 300)]
    kept, report = fit(Rows.open([save(tmp_path, pairs)]), build, None)
    assert kept.pair_ids == ["pair-0000"]
    assert str(report) == "of 2 rows 1 have more than 1024 tokens; 1 are left"
    build([kept[0]], 0)


def test_prompts_with_placeholders_are_counted(checkpoint, tmp_path):
    build = BatchBuilder(checkpoint("llava-1.5").family, SVCO().views, 3)
    pairs = [a_pair(0), a_pair(1, prompt="What is <image>?"), a_pair(2)]
    kept, report = fit(Rows.open([save(tmp_path, pairs)]), build, None)
    assert kept.pair_ids == ["pair-0000", "pair-0002"]
    assert report.placeholders == ("pair-0001",)
    assert "1 hold an image placeholder in their prompt; 2 are left" in str(report)


def test_an_image_is_processed_once_a_size(checkpoint, tmp_path, monkeypatch):
    """What is asked for is the size of every image, not its pixels."""
    build = BatchBuilder(checkpoint("qwen3-vl").family, SVCO().views, 3)
    rows = Rows.open([save(tmp_path, [a_pair(n) for n in range(12)])])
    asked = []
    pixels = Family.pixels

    def noted(self, images):
        asked.append([image.size for image in images])
        return pixels(self, images)

    monkeypatch.setattr(Family, "pixels", noted)
    assert len(fit(rows, build, 10**6)[0]) == 12
    assert sorted(size for (size,) in asked) == sorted(SIZES)


def edited(left, right):
    """An image of 80 x 40, and one that differs in some columns alone."""
    image = np.random.default_rng(5).integers(0, 256, (40, 80, 3), dtype=np.uint8)
    other = image.copy()
    other[:, left:right] = 255 - other[:, left:right]
    images = []
    for pixels in (image, other):
        sink = io.BytesIO()
        PIL.Image.fromarray(pixels).save(sink, "PNG")
        images.append(Image(sink.getvalue(), None))
    return dict(zip(("chosen_image", "rejected_image"), images, strict=True))


def shown_alike(family, row):
    one, other = family.pixels([decode(i.bytes) for i in (row.chosen_image, row.rejected_image)])
    return torch.equal(one.tensors["pixel_values"], other.tensors["pixel_values"])


EDITS = {"left": (0, 15), "right": (66, 80), "middle": (35, 45), "inside": (22, 26)}


@pytest.mark.parametrize(("name", "cut"), [("llava-1.5", 2), ("llava-next", 0), ("qwen3-vl", 0)])
def test_an_edit_that_the_processor_cuts_away_is_left_out(checkpoint, tmp_path, name, cut):
    """LLaVA-1.5 keeps columns 20 to 60; others see all."""
    family = checkpoint(name).family
    build = BatchBuilder(family, SVCO().views, 3)
    pairs = [a_pair(n, **edited(*columns)) for n, columns in enumerate(EDITS.values())]
    rows = Rows.open([save(tmp_path / "run", pairs)])
    kept, report = fit(rows, build, None)
    assert report.alike == ("pair-0000", "pair-0001")[:cut]
    assert kept.pair_ids == [p.pair_id for p in pairs][cut:]
    assert not any(shown_alike(family, kept[n]) for n in range(len(kept)))
    if cut:
        assert all(shown_alike(family, rows[n]) for n in range(2))
        assert str(report) == (
            "of 4 rows 2 differ only where the model's processor cuts images; 2 are left"
        )
    # A loss that shows one of the images has nothing to miss.
    assert len(fit(rows, BatchBuilder(family, DPO().views, 3), None)[0]) == 4


def test_an_image_that_is_compared_and_damaged_is_named(checkpoint, tmp_path):
    whole = a_pair(0, **edited(0, 15))
    damaged = Image(whole.rejected_image.bytes[:200], None)
    rows = Rows.open([save(tmp_path, [replace(whole, rejected_image=damaged)])])
    build = BatchBuilder(checkpoint("llava-1.5").family, SVCO().views, 3)
    with pytest.raises(UsageError, match="pair-0000 cannot be used: its image of 200 bytes"):
        fit(rows, build, None)


def test_everything_fits(checkpoint, tmp_path):
    build = BatchBuilder(checkpoint("qwen3-vl").family, SVCO().views, 3)
    rows = Rows.open([save(tmp_path, [a_pair(0)])])
    kept, report = fit(rows, build, None)
    assert str(report) == "all 1 rows fit into 1024 tokens"
    assert kept[0] == a_row(0)
