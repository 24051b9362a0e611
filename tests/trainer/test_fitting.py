"""Rows that do not fit are left out whole, and counted; tokens are counted without processing."""

from __future__ import annotations

import pytest

from tests.tiny.vlm import FAMILIES
from tests.trainer.pairs import SIZES, a_pair, a_row, save
from trainer.batches import BatchBuilder
from trainer.errors import UsageError
from trainer.families import Family
from trainer.fitting import fit
from trainer.losses import ICVCO, MDPO, SVCO
from trainer.rows import Rows


def longest(build, row):
    """Tokens of the row's longest view, from a real batch without shared prompts."""
    return max(len(packed.ids) for packed in build([row], 0).packed)


@pytest.mark.parametrize("name", FAMILIES)
def test_rows_are_measured_exactly(checkpoint, tmp_path, name):
    family = checkpoint(name).family
    views = SVCO().views | MDPO().views
    views |= ICVCO().views if family.kind.several_images else frozenset()
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


def test_everything_fits(checkpoint, tmp_path):
    build = BatchBuilder(checkpoint("qwen3-vl").family, SVCO().views, 3)
    rows = Rows.open([save(tmp_path, [a_pair(0)])])
    kept, report = fit(rows, build, None)
    assert str(report) == "all 1 rows fit into 1024 tokens"
    assert kept[0] == a_row(0)
