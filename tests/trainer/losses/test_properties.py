"""What must hold for any numbers: gradients, symmetries, what a loss may not depend on."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trainer.losses.tables import ALL, BAD, LOSSES, PREFERENCES, M, Y, drawn
from trainer.losses import ICVCO, MDPO, SVCO, AdaViP, CHiP, OViP, SymMPO
from trainer.losses.views import Answer, Images, Quantity, Tokens, View, of_log_probs
from trainer.settings import presets

README = Path(__file__).parents[3] / "trainer" / "README.md"
nats = st.floats(-80, 80, allow_nan=False)
MIRROR_IMAGE = {Images.CHOSEN: Images.REJECTED, Images.REJECTED: Images.CHOSEN}
MIRROR_ANSWER = {Answer.CHOSEN: Answer.COUNTERFACTUAL, Answer.COUNTERFACTUAL: Answer.CHOSEN}


def mirrored(view):
    """The same cell with the pair's two sides exchanged."""
    return dataclasses.replace(
        view,
        images=MIRROR_IMAGE.get(view.images, view.images),
        answer=MIRROR_ANSWER[view.answer],
        anchor=MIRROR_IMAGE.get(view.anchor),
    )


@pytest.mark.parametrize("name", PREFERENCES)
def test_the_readme_knows_every_term(name):
    loss = PREFERENCES[name]
    text = README.read_text("utf-8").partition("A loss gives `per_row`")[2].partition("Ends:")[0]
    assert text
    for key in loss(*drawn(loss)).metrics:
        kind, _, term = key.partition("/")
        known = f"`{key}`", f"`{term.removesuffix('_mirrored')}`", f"`{kind}/...`"
        assert kind == "log_ratio" or any(word in text for word in known), key


def test_the_readme_names_exactly_the_losses_and_presets_there_are():
    text = README.read_text("utf-8")

    def first_column(title):
        rows = text.partition(f"\n| {title} |")[2].partition("\n\n")[0].splitlines()[2:]
        return {re.match(r"\| `([\w-]+)`", row)[1] for row in rows}

    assert first_column("loss") == set(LOSSES)
    assert first_column("preset") == set(presets())


@pytest.mark.parametrize("name", ALL)
def test_gradients_against_finite_differences(name):
    """In float64, through all views; the distillation's gates are fixed where the draw puts them
    (no margin lies within a step of a gate)."""
    loss = ALL[name]
    policy, reference = drawn(loss, rows=8, seed=7, dtype=torch.float64)
    views = list(policy)

    def rows(*values):
        return loss(dict(zip(views, values, strict=True)), reference).per_row

    if isinstance(loss, ICVCO) and loss.vcdist_weight:
        # The teacher has no gradient, though the loss changes with it: look at the student alone.
        views = [view for view in policy if view.anchor is None]
        others = {view: policy[view].detach() for view in policy if view.anchor is not None}

        def rows(*values):
            return loss(others | dict(zip(views, values, strict=True)), reference).per_row

        assert 0 < loss(policy, reference).metrics["gate/active"].mean() < 1
    if isinstance(loss, CHiP):  # the true answer's KL holds the margin without a gradient
        others = {view: value.detach() for view, value in policy.items()}
        views = [v for v in policy if v.quantity is not Quantity.KL or v.answer is not Y]

        def rows(*values):
            return loss(others | dict(zip(views, values, strict=True)), reference).per_row

    assert torch.autograd.gradcheck(rows, [policy[view] for view in views])


def test_the_teacher_learns_from_its_own_branch_alone():
    """IC-VCO's multi cells: the gradient is that of the loss without distillation."""
    grads = []
    for loss in (ICVCO(), ICVCO(vcdist_weight=0)):
        policy, reference = drawn(loss, rows=4, seed=9)
        loss(policy, reference).loss.backward()
        grads.append({view.key: policy[view].grad for view in loss.views if view.anchor})
    assert len(grads[0]) == 4
    for key, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][key], rtol=0, atol=0)


@settings(max_examples=50)
@given(st.lists(nats, min_size=16, max_size=16), st.sampled_from(["svco", "icvco"]))
def test_exchange_of_the_two_sides(values, name):
    """S-VCO and IC-VCO do not care which image is called the original."""
    loss = {"svco": SVCO(), "icvco": ICVCO()}[name]
    views = sorted(loss.views, key=lambda view: view.key)
    policy = {v: torch.tensor([x]) for v, x in zip(views, values[:8], strict=False)}
    reference = {v: torch.tensor([x]) for v, x in zip(views, values[8:], strict=False)}
    assert {mirrored(view) for view in views} == set(views)
    there = loss(policy, reference)
    back = loss(
        {mirrored(v): x for v, x in policy.items()}, {mirrored(v): x for v, x in reference.items()}
    )
    torch.testing.assert_close(there.per_row, back.per_row, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(
        there.metrics["margin"], back.metrics["margin"], rtol=1e-4, atol=1e-4
    )


def test_exchange_with_unequal_betas_exchanges_them():
    loss = SVCO(beta_shown=0.1, beta_absent=0.2, beta_shown_mirrored=0.3, beta_absent_mirrored=0.4)
    turned = SVCO(
        beta_shown=0.3, beta_absent=0.4, beta_shown_mirrored=0.1, beta_absent_mirrored=0.2
    )
    policy, reference = drawn(loss, seed=2)
    back = turned(
        {mirrored(v): x for v, x in policy.items()}, {mirrored(v): x for v, x in reference.items()}
    )
    torch.testing.assert_close(loss(policy, reference).per_row, back.per_row)


@settings(max_examples=50)
@given(st.sampled_from(sorted(PREFERENCES)), st.integers(0, 99), st.lists(nats, min_size=9))
def test_a_shift_of_policy_and_reference_changes_nothing(name, seed, shifts):
    """Only log-ratios count: each view may be moved as a whole. float64, for the subtraction."""
    loss = PREFERENCES[name]
    policy, reference = drawn(loss, seed=seed, dtype=torch.float64)
    moved = dict(zip(sorted(loss.views, key=lambda view: view.key), shifts, strict=False))
    there = loss(policy, reference).per_row
    back = loss(
        {v: value + (moved[v] if v in reference else 0) for v, value in policy.items()},
        {view: value + moved[view] for view, value in reference.items()},
    ).per_row
    torch.testing.assert_close(there, back, rtol=1e-9, atol=1e-9)


@settings(max_examples=50)
@given(st.sampled_from(sorted(PREFERENCES)), st.integers(0, 99))
def test_likelier_true_answers_are_never_worse(name, seed):
    """No gradient says "less of the true answer under its own image", nor "more of the wrong one";
    SymMPO's square may, which pulls the larger margin back."""
    loss = PREFERENCES[name]
    if isinstance(loss, SymMPO):
        loss = dataclasses.replace(loss, consistency_weight=0)
    policy, reference = drawn(loss, seed=seed)
    loss(policy, reference).loss.backward()
    for view, value in policy.items():
        if view.quantity is Quantity.KL:
            continue
        shown = view.images if view.anchor is None else view.anchor
        if (shown, view.answer) in {(M, Y), (Images.REJECTED, Answer.COUNTERFACTUAL)}:
            assert (value.grad <= 0).all()
        elif shown is not Images.NONE:
            assert value.grad is None or (value.grad >= 0).all()


@pytest.mark.parametrize("name", ALL)
def test_rows_do_not_know_each_other(name):
    """But for IC-VCO's distillation, which is a mean over the active rows of the batch."""
    loss = ALL[name]
    if isinstance(loss, ICVCO):
        loss = dataclasses.replace(loss, vcdist_weight=0)
    policy, reference = drawn(loss, rows=5, seed=6)
    whole = loss(policy, reference)
    assert whole.loss.item() == pytest.approx(whole.per_row.mean().item())
    for row in range(5):
        alone = loss(
            {view: value[row : row + 1] for view, value in policy.items()},
            {view: value[row : row + 1] for view, value in reference.items()},
        )
        torch.testing.assert_close(alone.per_row[0], whole.per_row[row])
        for key, value in alone.metrics.items():
            torch.testing.assert_close(value[0], whole.metrics[key][row])


@pytest.mark.parametrize("name", ALL)
def test_exactly_the_views_are_read(name):
    """A cell more is not looked at; a cell less is an error; no gradient reaches the reference."""
    loss = ALL[name]
    policy, reference = drawn(loss, seed=8)
    expected = loss(policy, reference).per_row
    trap = View(M, Y, Tokens.SPANS, quantity=Quantity.MEAN)
    broken = torch.full((3,), torch.nan)
    torch.testing.assert_close(loss(policy | {trap: broken}, reference).per_row, expected)
    for view in loss.views:
        with pytest.raises(ValueError, match="lacks"):
            loss({v: x for v, x in policy.items() if v != view}, reference)
    for value in reference.values():
        value.requires_grad_()
    loss(policy, reference).loss.backward()
    assert all(value.grad is None for value in reference.values())


@pytest.mark.parametrize("name", ALL)
def test_metrics(name):
    """Per row, without gradient, of one vocabulary; summaries over what is compared."""
    loss = ALL[name]
    policy, reference = drawn(loss, rows=6, seed=3)
    metrics = loss(policy, reference).metrics
    for key, value in metrics.items():
        assert value.shape == (6,)
        assert not value.requires_grad
        assert key.split("/")[0] in {
            "log_ratio", "loss", "margin", "accuracy", "gate", "share", "kl"
        }  # fmt: skip
    if name.startswith("sft"):
        return
    for view in of_log_probs(loss.views):
        torch.testing.assert_close(
            metrics[f"log_ratio/{view.key}"], (policy[view] - reference[view]).detach()
        )
    compared = [
        key.removeprefix("margin/")
        for key in metrics
        if key.startswith("margin/") and "anchor" not in key
    ]
    for kind in ("margin", "accuracy"):
        mean = torch.stack([metrics[f"{kind}/{term}"] for term in compared]).mean(0)
        torch.testing.assert_close(metrics[kind], mean)
    for term in compared:
        assert ((metrics[f"margin/{term}"] > 0) == (metrics[f"accuracy/{term}"] == 1)).all()


def test_the_same_comparison_has_the_same_name():
    """On one table, "text" and "image" are one number each in all losses that have them."""
    losses = [PREFERENCES["dpo"], MDPO(), SymMPO(), OViP(), AdaViP()]
    policy, reference = drawn(OViP(form="released"), seed=1)
    more, base = drawn(SymMPO(), seed=1)
    crop, crop_base = drawn(MDPO(), seed=1)
    policy, reference = crop | more | policy, crop_base | base | reference
    found = [loss(policy, reference).metrics for loss in losses]
    assert sum("margin/image" in metrics for metrics in found) == 2
    for key in ("margin/text", "margin/image", f"log_ratio/{View(M, BAD).key}"):
        values = [metrics[key] for metrics in found if key in metrics]
        for value in values:
            torch.testing.assert_close(value, values[0])
