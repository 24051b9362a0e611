"""What losses do at their ends: nothing to tell apart, closed gates, infinities, low precision."""

from __future__ import annotations

import math

import pytest
import torch

from tests.trainer.losses.tables import (
    ALL,
    BAD,
    CROP,
    M2,
    NONE,
    PREFERENCES,
    Y2,
    M,
    Y,
    drawn,
    multi,
    single,
    tables,
)
from trainer.losses import DPO, ICVCO, MDPO, SVCO, AdaViP, OViP, SymMPO
from trainer.losses.views import View

LOG2 = math.log(2)


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (DPO(), LOG2),
        (MDPO(), 3 * LOG2),
        (SVCO(), 4 * LOG2),
        (SymMPO(), 4 * LOG2),  # text, half of two, two anchors
        (OViP(), 2 * LOG2),
        (OViP(form="released"), 3 * LOG2),
        (AdaViP(), math.log(3)),
        (ICVCO(), (0.875 + 0.875 + 0.375 + 0.375) * LOG2),  # no teacher is right: VCDist is shut
    ],
    ids=str,
)
def test_a_policy_that_is_its_reference(loss, expected):
    output = loss(*tables(loss, {}))
    assert output.loss.item() == pytest.approx(expected, rel=1e-6)
    assert output.metrics["accuracy"].item() == 0, "a tie is not right"


_OF_IMAGES = ("image", "crop", "shown", "absent")
"""Terms that compare one answer under two images."""
_HELD = {
    "mdpo": 1,
    "svco": 4,
    "symmpo": 1,
    "ovip": 1,
    "ovip released": 2,
    "adavip": 1,
    "icvco": 2,
    "icvco released": 2,
    "icvco, one branch": 1,
}
"""How many terms of a loss equal images bring to nothing. DPO shows one image."""


@pytest.mark.parametrize("name", _HELD)
def test_equal_images_tell_nothing(name):
    """Views that show one image or the other hold the same: all image terms are log 2 each, or
    cancel against their mirror, and push nowhere."""
    loss = PREFERENCES[name]
    generator = torch.Generator().manual_seed(3)
    by_answer = {a: torch.randn(2, generator=generator) * 10 for a in (Y, Y2, BAD)}
    policy = {v: by_answer[v.answer].clone().requires_grad_() for v in loss.views}
    output = loss(policy, {v: torch.zeros(2) for v in loss.views})
    held = 0
    for key, value in output.metrics.items():
        if key.removesuffix("_mirrored") in {f"loss/{term}" for term in _OF_IMAGES}:
            torch.testing.assert_close(value, torch.full((2,), LOG2))
            held += 1
        if key in {"margin/answer", "margin/single", "margin/multi"}:
            torch.testing.assert_close(value, -output.metrics[f"{key}_mirrored"])
            held += 1
    assert held == _HELD[name], "a loss whose terms are called otherwise would be held to nothing"


def test_equal_images_make_svco_four_times_log_2_at_no_preference():
    loss = SVCO()
    policy = {v: torch.tensor([-7.0 if v.answer is Y else -9.0]) for v in loss.views}
    reference = {v: torch.tensor([-5.0]) for v in loss.views}
    assert loss(policy, reference).loss.item() == pytest.approx(4 * LOG2)


def test_masked_out_rows_are_log_2_without_gradient():
    """A row without spans has sums of 0 in all its masked cells; they hang on no token."""
    loss = ICVCO(
        multi_weight=0, multi_anchor_weight=0, single_anchor_weight=0, vcdist_weight=0,
        single_weight=4,
    )  # fmt: skip
    tokens = torch.randn(2, 5, requires_grad=True)
    mask = torch.tensor([[1.0, 1, 0, 0, 0], [0, 0, 0, 0, 0]])
    policy = {view: (tokens * (k + 1) * mask).sum(1) for k, view in enumerate(loss.views)}
    output = loss(policy, {view: torch.zeros(2) for view in loss.views})
    assert output.per_row[1].item() == pytest.approx(2 * LOG2)
    output.loss.backward()
    assert tokens.grad[0, :2].abs().min() > 0
    assert tokens.grad[1].abs().max() == 0


def test_no_row_through_the_gates_stays_on_every_parameter():
    """DDP waits for a gradient of each parameter; a constant 0 would leave it waiting."""
    loss = ICVCO(single_weight=0, single_anchor_weight=0, multi_weight=0, multi_anchor_weight=0)
    weight = torch.ones(1, requires_grad=True)
    views = {single(Y, M): 9.0, multi(Y, M): -9.0, multi(Y2, M2): -9.0}
    policy = {view: weight * views.get(view, 0.0) for view in loss.views}
    output = loss(policy, {view: torch.zeros(1) for view in loss.views})
    assert output.metrics["gate/active"].item() == 0
    assert output.loss.item() == 0
    output.loss.backward()
    assert weight.grad is not None
    assert weight.grad.item() == 0


def test_gates():
    """Teacher right and surer: strictly, both; one active direction of six rows carries all."""
    loss = ICVCO(single_weight=0, single_anchor_weight=0, multi_weight=0, multi_anchor_weight=0)
    #        passes, not surer, as sure, not right, just not right, passes
    student = [0.0, 30.0, 20.0, -20.0, -20.0, 5.0]
    teacher = [20.0, 20.0, 20.0, -10.0, 0.0, 10.0]
    shut = [0.0] * 6
    ratios = {single(Y, M): student, multi(Y, M): teacher, single(Y2, M2): shut}
    policy, reference = tables(loss, ratios)
    policy = {view: value.requires_grad_() for view, value in policy.items()}
    output = loss(policy, reference)
    assert output.metrics["gate/active"].tolist() == [0.5, 0, 0, 0, 0, 0.5]
    assert output.metrics["gate/teacher_right"].tolist() == [0.5, 0.5, 0.5, 0, 0, 0.5]
    by_hand = []
    for q, teacher_margin in ((0.0, 2.0), (0.5, 1.0)):
        p = 1 / (1 + math.exp(-teacher_margin))
        by_hand.append(p * math.log(1 + math.exp(-q)) + (1 - p) * math.log(1 + math.exp(q)))
    assert output.loss.item() == pytest.approx(0.2 * sum(by_hand) / 2, rel=1e-5)
    output.loss.backward()
    assert policy[single(Y, M)].grad.nonzero().flatten().tolist() == [0, 5]
    assert policy[multi(Y, M)].grad is None, "the teacher is not taught"


def test_the_threshold_is_a_probability():
    ratios = {multi(Y, M): [20.0, 10.0], multi(Y2, M2): [-10.0, -10.0]}
    loss = ICVCO(vcdist_threshold=0.8)  # sigmoid(2) = 0.88, sigmoid(1) = 0.73
    assert loss(*tables(loss, ratios)).metrics["gate/teacher_right"].tolist() == [0.5, 0]


def test_distillation_does_not_saturate():
    """Of margins of 20, 100 and 200 the released form clamps all to one number, without gradient;
    the true loss is the margin."""
    loss = ICVCO(single_weight=0, single_anchor_weight=0, multi_weight=0, multi_anchor_weight=0,
                 vcdist_weight=2)  # fmt: skip
    ratios = {single(Y, M): [-200.0, -1000.0, -2000.0], multi(Y, M): [1000.0] * 3,
              multi(Y2, M2): [-10.0] * 3}  # fmt: skip
    policy, reference = tables(loss, ratios)
    policy = {view: value.requires_grad_() for view, value in policy.items()}
    output = loss(policy, reference)
    torch.testing.assert_close(
        output.per_row.detach(), torch.tensor([20.0, 100.0, 200.0]), rtol=1e-5, atol=1e-4
    )
    output.loss.backward()
    torch.testing.assert_close(policy[single(Y, M)].grad, torch.full((3,), -0.1 / 3))


@pytest.mark.parametrize("name", PREFERENCES)
def test_large_margins_stay_finite(name):
    """A thousand nats either way: no overflow, no lost gradient of what is far wrong."""
    loss = PREFERENCES[name]
    for sign in (1, -1):
        policy, reference = tables(loss, {View(M, Y): [1e3 * sign], single(Y, M): [1e3 * sign]})
        policy = {view: value.requires_grad_() for view, value in policy.items()}
        output = loss(policy, reference)
        output.loss.backward()
        assert torch.isfinite(output.per_row).all()
        grads = [p.grad for p in policy.values() if p.grad is not None]
        assert all(torch.isfinite(grad).all() for grad in grads)
        if sign < 0:
            assert any(grad.abs().max() > 0.01 for grad in grads)


@pytest.mark.parametrize("name", PREFERENCES)
def test_an_impossible_answer_is_infinite_and_only_in_its_row(name):
    """A view at -inf (a model that gives a token no probability at all): the row's loss is inf
    where the view should have been likely, finite or inf elsewhere, nan only where two such cells
    are compared; the other rows do not change."""
    loss = PREFERENCES[name]
    policy, reference = drawn(loss, rows=3, seed=11)
    clean = loss(policy, reference).per_row
    for view in loss.views:
        broken = {v: p.detach().clone().requires_grad_() for v, p in policy.items()}
        with torch.no_grad():
            broken[view][1] = -torch.inf
        output = loss(broken, reference)
        assert not output.per_row.isnan().any()
        if not isinstance(loss, ICVCO):  # its distillation is a mean over the batch's active rows
            torch.testing.assert_close(output.per_row[[0, 2]], clean[[0, 2]])
        if view in {View(M, Y), single(Y, M)}:
            assert output.per_row[1].item() == torch.inf
        if view in {View(M, BAD), View(CROP, Y)}:
            assert output.per_row[1].isfinite()
        output.per_row[[0, 2]].sum().backward()
        assert all(p.grad[[0, 2]].isfinite().all() for p in broken.values() if p.grad is not None)


@pytest.mark.parametrize("name", ALL)
def test_nan_names_its_row(name):
    loss = ALL[name]
    policy, reference = drawn(loss, rows=4, seed=1)
    for view in loss.views:
        broken = {v: p.detach().clone() for v, p in policy.items()}
        broken[view][2] = torch.nan
        per_row = loss(broken, reference).per_row
        assert per_row.isnan().nonzero().flatten().tolist() == [2]


@pytest.mark.parametrize("name", ALL)
def test_float32_whatever_comes_in(name):
    loss = ALL[name]
    policy, reference = drawn(loss, seed=4)
    low = [
        {view: value.detach().bfloat16() for view, value in table.items()}
        for table in (policy, reference)
    ]
    exact = loss(*[{view: value.float() for view, value in table.items()} for table in low])
    with torch.autocast("cpu", torch.bfloat16):
        output = loss(*low)
        assert output.loss.dtype == torch.float32
        torch.testing.assert_close(output.per_row, exact.per_row, rtol=0, atol=0)
        same = loss(policy, reference)
    torch.testing.assert_close(same.per_row, loss(policy, reference).per_row, rtol=0, atol=0)
    assert all(value.dtype == torch.float32 for value in same.metrics.values())


def test_an_empty_or_ragged_batch_is_refused():
    loss = DPO()
    good, bad = View(M, Y), View(M, BAD)
    ones, none = torch.ones(2), torch.ones(0)
    with pytest.raises(ValueError, match=r"one shape \[B\]"):
        loss({good: none, bad: none}, {good: none, bad: none})
    with pytest.raises(ValueError, match=r"one shape \[B\]"):
        loss({good: ones, bad: torch.ones(3)}, {good: ones, bad: ones})
    with pytest.raises(ValueError, match="policy table lacks: chosen/rejected"):
        loss({good: ones}, {good: ones, bad: ones})
    with pytest.raises(ValueError, match="reference table lacks: none/chosen"):
        SVCO()(
            dict.fromkeys(SVCO().views, ones),
            {view: ones for view in SVCO().views if view != View(NONE, Y)},
        )
    assert View(M2, Y2) in SVCO().views
