"""Losses as configurations make them: what is refused, what is needed, which views are left."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from tests.trainer.losses.tables import (
    ALL,
    BAD,
    CROP,
    LOSSES,
    M2,
    NONE,
    PREFERENCES,
    Y2,
    M,
    Y,
    drawn,
    multi,
    single,
)
from trainer.losses import DPO, ICVCO, MDPO, SFT, SVCO, AdaViP, Loss, OViP, SymMPO
from trainer.losses.views import Quantity, View, of_log_probs

LOSS = TypeAdapter(Loss)

TEXT = {View(M, Y), View(M, BAD)}
IMAGES = {View(M, Y), View(M2, Y)}
SINGLE = {single(a, m) for a in (Y, Y2) for m in (M, M2)}
MULTI = {multi(a, m) for a in (Y, Y2) for m in (M, M2)}


def named(value) -> str:
    """The name of a case; sets have no order that two processes share."""
    return f"{len(value)}" if isinstance(value, (set, frozenset)) else str(value)


@pytest.mark.parametrize(
    ("loss", "views"),
    [
        (DPO(), TEXT),
        (DPO(negative="counterfactual"), {View(M, Y), View(M, Y2)}),
        (MDPO(), TEXT | {View(CROP, Y)}),
        (MDPO(image_weight=0), TEXT),
        (SVCO(), {View(i, a) for i in (M, M2, NONE) for a in (Y, Y2)}),
        (SVCO(beta_absent=0, beta_shown_mirrored=0, beta_absent_mirrored=0),
         {View(M, Y), View(NONE, Y)}),
        (SymMPO(), TEXT | {View(M, Y2), View(M2, Y), View(M2, Y2)}),
        (SymMPO(symmetric_weight=0), TEXT | {View(M, Y2), View(M2, Y), View(M2, Y2)}),
        (SymMPO(symmetric_weight=0, consistency_weight=0), TEXT | {View(M2, Y2)}),
        (SymMPO(symmetric_weight=0, consistency_weight=0, anchor_weight=0), TEXT),
        (OViP(), TEXT | IMAGES),
        (OViP(form="released"), TEXT | IMAGES | {View(NONE, Y)}),
        (OViP(form="released", image_weight=0), TEXT),
        (AdaViP(), TEXT | IMAGES),
        (ICVCO(), SINGLE | MULTI),
        (ICVCO(multi_weight=0, multi_anchor_weight=0), SINGLE | MULTI),  # the teacher
        (ICVCO(multi_weight=0, multi_anchor_weight=0, vcdist_weight=0), SINGLE),
        (ICVCO(single_weight=0, single_anchor_weight=0, vcdist_weight=0), MULTI),
        (ICVCO(single_weight=0, multi_weight=0, multi_anchor_weight=0, vcdist_weight=0),
         {single(Y, M), single(Y2, M2)}),
        (SFT(), {View(M, Y, quantity=Quantity.MEAN)}),
    ],
    ids=named,
)  # fmt: skip
def test_a_weight_of_0_removes_the_views_that_it_alone_reads(loss, views):
    assert loss.views == views
    policy, reference = drawn(loss)
    loss(policy, reference).loss.backward()
    unread = [v for v, x in policy.items() if x.grad is None]
    teachers_only = isinstance(loss, ICVCO) and not loss.multi_weight
    assert [v for v in unread if not (teachers_only and v.anchor)] == []


@pytest.mark.parametrize(
    ("loss", "needs"),
    [
        (DPO(), {"rejected"}),
        (DPO(negative="counterfactual"), {"counterfactual"}),
        (MDPO(), {"rejected"}),
        (SVCO(), {"rejected_image", "counterfactual"}),
        (SymMPO(), {"rejected_image", "rejected", "counterfactual"}),
        (OViP(), {"rejected_image", "rejected"}),
        (AdaViP(negative="counterfactual"), {"rejected_image", "counterfactual"}),
        (ICVCO(), {"rejected_image", "counterfactual", "chosen_spans", "counterfactual_spans"}),
        (SFT(), set()),
        (SFT(mirrored=True), {"rejected_image", "counterfactual"}),
    ],
    ids=named,
)
def test_needs(loss, needs):
    assert loss.needs == needs | {"prompt", "chosen", "chosen_image"}


@pytest.mark.parametrize("name", PREFERENCES)
def test_every_view_of_a_preference_has_a_reference(name):
    assert PREFERENCES[name].reference_views == of_log_probs(PREFERENCES[name].views)


@pytest.mark.parametrize("name", ALL)
def test_from_a_configuration_and_back(name):
    loss = ALL[name]
    written = LOSS.dump_python(loss)
    assert LOSS.validate_python(written) == loss
    assert LOSS.validate_python({"name": loss.name}) == type(loss)()
    assert hash(loss) == hash(LOSS.validate_python(written))


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ({"name": "ppo"}, ", ".join(f"'{name}'" for name in LOSSES)),
        ({"name": "dpo", "betta": 0.1}, "Unexpected keyword argument"),
        ({"name": "dpo", "beta": 0}, "greater than 0"),
        ({"name": "dpo", "beta": float("inf")}, "finite"),
        ({"name": "dpo", "negative": "chosen"}, "'rejected' or 'counterfactual'"),
        ({"name": "mdpo", "anchor_weight": -1}, "greater than or equal to 0"),
        ({"name": "ovip", "form": "code"}, "'paper' or 'released'"),
        ({"name": "icvco", "vcdist_threshold": 1}, "less than 1"),
        (
            {"name": "svco", **dict.fromkeys(
                ("beta_shown", "beta_absent", "beta_shown_mirrored", "beta_absent_mirrored"), 0)},
            "svco with all four betas 0 has no term",
        ),
        (
            {"name": "icvco", **dict.fromkeys(
                ("single_weight", "multi_weight", "single_anchor_weight", "multi_anchor_weight",
                 "vcdist_weight"), 0)},
            "icvco with all weights 0 has no term",
        ),
    ],
    ids=named,
)  # fmt: skip
def test_impossible_settings_are_refused(written, message):
    with pytest.raises(ValidationError, match=message):
        LOSS.validate_python(written)
