"""The probe on a hand-made table of log-probs."""

from __future__ import annotations

import pytest

from trainer.evaluate.probe import (
    MIRRORED_SHOWN,
    MIRRORED_SWAPPED,
    SHOWN,
    SWAPPED,
    ProbeRow,
    summarise,
)


def row(name, image, kind, cells):
    views = (SHOWN, SWAPPED, MIRRORED_SHOWN, MIRRORED_SWAPPED)
    return ProbeRow(name, image, kind, dict(zip(views, cells, strict=False)))


TABLE = [
    row("a", "i1", "object", (-2.0, -5.0, -4.0, -1.0)),  # right, mirror wrong
    row("b", "i1", "object", (-3.0, -4.0, -1.0, -3.0)),  # right, right
    row("c", "i2", "object", (-6.0, -4.0, -1.0, -2.0)),  # wrong, right
    row("d", "i2", "crop", (-4.0, -4.0)),  # a tie, no counterfactual
    row("e", "i3", "crop", (-1.0, -3.0)),  # right, no counterfactual
]


def test_shares_and_margins_by_hand():
    lines = {line.kind: line for line in summarise(TABLE)}
    assert list(lines) == ["all", "crop", "object"]
    everything = lines["all"]
    assert everything.shown.value == pytest.approx((1 + 1 + 0 + 0.5 + 1) / 5)
    assert everything.shown_margin.value == pytest.approx((3 + 1 - 2 + 0 + 2) / 5)
    assert everything.mirrored.value == pytest.approx(2 / 3)
    assert everything.mirrored_margin.value == pytest.approx((-3 + 2 + 1) / 3)
    assert everything.both.value == pytest.approx(1 / 3)
    assert (everything.shown.rows, everything.shown.images) == (5, 3)
    assert (everything.mirrored.rows, everything.mirrored.images) == (3, 2)


def test_kinds_without_counterfactual_have_no_mirror():
    crop = next(line for line in summarise(TABLE) if line.kind == "crop")
    assert crop.shown.value == pytest.approx(0.75)
    assert crop.mirrored is None
    assert crop.both is None


def test_a_model_that_does_not_look_gets_one_half():
    blind = [row(str(i), str(i), "flip", (-i, -i, -2.0, -2.0)) for i in range(1, 5)]
    line = summarise(blind)[0]
    assert line.shown.value == line.mirrored.value == line.both.value == 0.5


def test_no_pairs_are_refused():
    with pytest.raises(ValueError, match="at least one pair"):
        summarise([])
