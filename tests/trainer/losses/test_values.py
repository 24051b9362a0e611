"""Every loss against numbers worked out by hand, and against formulas written once more."""

from __future__ import annotations

import math

import pytest
import torch

from tests.trainer.losses.tables import (
    BAD,
    CROP,
    M2,
    NOISED,
    NONE,
    Y2,
    M,
    Y,
    drawn,
    multi,
    single,
    tables,
)
from trainer.losses import DPO, ICVCO, MDPO, SFT, SVCO, VDPO, AdaViP, CHiP, OViP, SymMPO
from trainer.losses.views import Quantity, Tokens, View

# softplus(-x) = -log sigmoid(x), from tables of logarithms.
S = {-2: 2.126928, -1: 1.313262, 0: 0.693147, 1: 0.313262, 2: 0.126928, 3: 0.048587}

# Log-ratios in nats; beta is 0.1 everywhere, so that 10 nats are a margin of 1.
RATIOS = {
    View(M, Y): [20.0],
    View(M, BAD): [10.0],
    View(M, Y2): [10.0],
    View(M2, Y): [-10.0],
    View(M2, Y2): [10.0],
    View(NONE, Y): [10.0],
    View(NONE, Y2): [0.0],
    View(CROP, Y): [30.0],
    View(M, Y, Tokens.FROM_FIRST_DIFFERENCE, against=BAD): [15.0],
    View(M, BAD, Tokens.FROM_FIRST_DIFFERENCE, against=Y): [5.0],
    View(M, Y, Tokens.DIFFERING, against=BAD): [2.0],
    View(M, BAD, Tokens.DIFFERING, against=Y): [1.0],
    View(NOISED, Y): [16.0],
    View(NOISED, Y, Tokens.DIFFERING, against=BAD): [0.0],
    View(M, Y, quantity=Quantity.KL): [5.0],
    View(M, BAD, quantity=Quantity.KL): [8.0],
}


def softplus(x):
    return math.log1p(math.exp(x))


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (DPO(), S[1]),
        (DPO(negative="counterfactual"), S[1]),
        (DPO(beta=0.2), S[2]),
        # text, crop, anchor
        (MDPO(), S[1] + S[-1] + S[2]),
        (MDPO(image_weight=0), S[1] + S[2]),
        (MDPO(anchor_weight=0), S[1] + S[-1]),
        (MDPO(anchor_delta=2.0), S[1] + S[-1] + S[0]),
        # shown 20-10, absent 10+10, shown_mirrored 10-0, absent_mirrored 0-10
        (SVCO(), S[1] + S[2] + S[1] + S[-1]),
        (SVCO(beta_absent=0, beta_absent_mirrored=0), S[1] + S[1]),
        # text, lambda (z1 = 10, z2 = 20), both anchors, 1e-4 * 10^2
        (SymMPO(), S[1] + 0.5 * (S[1] + S[2]) + S[2] + S[1] + 0.01),
        (SymMPO(consistency_weight=0), S[1] + 0.5 * (S[1] + S[2]) + S[2] + S[1]),
        (SymMPO(symmetric_weight=0, anchor_weight=0), S[1] + 0.01),
        (SymMPO(symmetric_weight=0, anchor_weight=0, consistency_weight=0), S[1]),
        (SymMPO(beta_mirrored=0.2, consistency_weight=0), S[1] + 0.5 * (S[1] + S[2]) + 2 * S[2]),
        # text; 20+10 in one term; or 20-10 and 10+10
        (OViP(), S[1] + S[3]),
        (OViP(form="released"), S[1] + S[1] + S[2]),
        (OViP(form="released", image_weight=0.5), S[1] + (S[1] + S[2]) / 2),
        (OViP(form="released", anchor_weight=0.5), 2 * S[1] + S[2] + 0.5 * S[2]),
        (OViP(image_weight=0), S[1]),
        # from the first difference 15-5; with whole answers 20+10 under the images
        (VDPO(), S[1]),
        (VDPO(image_weight=0.5), S[1] + 0.5 * S[3]),
        # w = all + 3 differing: 20+3*2 over 10+3*1 (13), over 16+3*0 (10), less (8-5)/10 of KL
        (CHiP(), softplus(-0.1 * (13 + 10 - 0.1 * 3))),
        (CHiP(segment_weight=1, token_beta=0, image_weight=0.5), softplus(-0.1 * (10 + 0.5 * 4))),
        # rewards 2, 1, -1: log(1 + e^-1 + e^-3) = log 1.417666
        (AdaViP(), 0.349013),
    ],
    ids=str,
)
def test_by_hand(loss, expected):
    output = loss(*tables(loss, RATIOS))
    assert output.per_row.shape == (1,)
    assert output.loss.item() == pytest.approx(expected, abs=2e-6)


def icvco_ratios():
    """Margins: single 1 and -2, multi 2 and -1; anchors: single 1 and -1, multi 2 and 0."""
    return {
        single(Y, M): [10.0],
        single(Y2, M): [0.0],
        single(Y2, M2): [-10.0],
        single(Y, M2): [10.0],
        multi(Y, M): [20.0],
        multi(Y2, M): [0.0],
        multi(Y2, M2): [0.0],
        multi(Y, M2): [10.0],
    }


SINGLE, MULTI = (S[1] + S[-2]) / 2, (S[2] + S[-1]) / 2
SINGLE_ANCHOR, MULTI_ANCHOR = (S[1] + S[-1]) / 2, (S[2] + S[0]) / 2
# Only the first direction passes both gates: p = sigmoid(2) = 0.880797, q = sigmoid(1); in logits
# p softplus(-1) + (1 - p) softplus(1).
VCDIST = 0.880797 * S[1] + 0.119203 * S[-1]


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        (
            ICVCO(),
            0.875 * SINGLE + 0.875 * SINGLE_ANCHOR + 0.375 * MULTI + 0.375 * MULTI_ANCHOR
            + 0.2 * VCDIST,
        ),
        (
            ICVCO(anchor_counted_twice=True),
            0.875 * SINGLE + 1.75 * SINGLE_ANCHOR + 0.375 * MULTI + 0.75 * MULTI_ANCHOR
            + 0.2 * VCDIST,
        ),
        (ICVCO(multi_weight=0, multi_anchor_weight=0, vcdist_weight=0, single_anchor_weight=0),
         0.875 * SINGLE),
        (ICVCO(single_weight=0, single_anchor_weight=0, vcdist_weight=0, multi_anchor_weight=0),
         0.375 * MULTI),
        (ICVCO(single_weight=0, single_anchor_weight=0, multi_weight=0, multi_anchor_weight=0),
         0.2 * VCDIST),
        (ICVCO(single_weight=0, multi_weight=0, multi_anchor_weight=0, vcdist_weight=0),
         0.875 * SINGLE_ANCHOR),
        (ICVCO(single_weight=0, multi_weight=0, multi_anchor_weight=0, vcdist_weight=0,
               anchor_delta=1.0), 0.875 * (S[0] + S[-2]) / 2),
    ],
    ids=str,
)  # fmt: skip
def test_icvco_by_hand(loss, expected):
    assert loss(*tables(loss, icvco_ratios())).loss.item() == pytest.approx(expected, abs=3e-6)


def test_the_anchor_counted_twice_is_what_the_released_steps_give():
    """`total = base; total += anchor` changes `base`, which is weighted afterwards: the steps of
    the release, in torch, end where the switch ends."""
    loss = ICVCO(anchor_counted_twice=True)
    policy, reference = drawn(loss, rows=4, seed=5)
    d = {view: policy[view].detach() - reference[view] for view in loss.views}
    branches = {}
    for name, cell in (("single", single), ("multi", multi)):
        own = torch.cat([d[cell(Y, M)], d[cell(Y2, M2)]])
        other = torch.cat([d[cell(Y2, M)], d[cell(Y, M2)]])
        base = -torch.nn.functional.logsigmoid(0.1 * (own - other)).mean()
        anchor = -torch.nn.functional.logsigmoid(0.1 * own).mean()
        total = base
        total += 1.0 * anchor
        assert total is base
        branches[name] = (base, anchor, 0.1 * (own - other))
    student, teacher = (torch.sigmoid(branches[name][2]) for name in ("single", "multi"))
    active = (teacher > 0.5) & (student < teacher)
    assert 0 < active.sum() < 8
    entropy = torch.nn.functional.binary_cross_entropy(student, teacher, reduction="none")
    vcdist = (entropy * active).sum() / active.sum()
    one = 1.75 * branches["single"][0] + 1.75 * branches["single"][1] + 0.4 * vcdist
    two = 0.75 * branches["multi"][0] + 0.75 * branches["multi"][1]
    assert loss(policy, reference).loss.item() == pytest.approx(((one + two) / 2).item(), rel=1e-5)
    declared = ICVCO()(policy, reference).loss.item()
    doubled = 0.875 * branches["single"][1].item() + 0.375 * branches["multi"][1].item()
    assert loss(policy, reference).loss.item() - declared == pytest.approx(doubled, rel=1e-4)


def test_ovip_forms_differ_as_the_papers_reader_found():
    """Margins of +2 and -2: one term of their sum against two terms."""
    ratios = {View(M, Y): [20.0], View(NONE, Y): [0.0], View(M2, Y): [20.0], View(M, BAD): [20.0]}
    paper, released = OViP(), OViP(form="released")
    text = math.log(2)
    assert paper(*tables(paper, ratios)).loss.item() - text == pytest.approx(0.6931, abs=1e-4)
    assert released(*tables(released, ratios)).loss.item() - text == pytest.approx(2.2539, abs=1e-4)


def test_the_image_free_cell_cancels_in_ovips_paper_form():
    """Equation 5 as it is written, with that cell, whatever the cell holds."""
    loss = OViP()
    policy, reference = drawn(OViP(form="released"), rows=50, seed=2)
    d = {view: (policy[view] - reference[view]).detach() for view in policy}
    shown = 0.1 * (d[View(M, Y)] - d[View(NONE, Y)])
    absent = 0.1 * (d[View(NONE, Y)] - d[View(M2, Y)])
    text = 0.1 * (d[View(M, Y)] - d[View(M, BAD)])
    expected = torch.nn.functional.softplus(-text) + torch.nn.functional.softplus(-shown - absent)
    assert View(NONE, Y) not in loss.views
    torch.testing.assert_close(loss(policy, reference).per_row, expected, rtol=1e-5, atol=1e-6)


def test_adavip_is_equation_11_and_a_cross_entropy():
    loss = AdaViP()
    policy, reference = drawn(loss, rows=50, seed=3)
    rewards = [
        (0.1 * (policy[view] - reference[view]).detach()).tolist()
        for view in (View(M, Y), View(M, BAD), View(M2, Y))
    ]
    per_row = loss(policy, reference).per_row
    for row, (good, bad, other) in enumerate(zip(*rewards, strict=True)):
        inner = -math.log(math.exp(bad - good) + math.exp(other - good))
        assert per_row[row].item() == pytest.approx(
            -math.log(1 / (1 + math.exp(-inner))), rel=1e-5, abs=1e-6
        )
    logits = torch.tensor(rewards).T
    entropy = torch.nn.functional.cross_entropy(
        logits, torch.zeros(50, dtype=torch.long), reduction="none"
    )
    torch.testing.assert_close(per_row.detach(), entropy, rtol=1e-5, atol=1e-6)


def test_adavip_gives_the_harder_negative_more_gradient():
    """The weights of the paper: sigmoid(r_l - r_other) and the rest."""
    loss = AdaViP()
    policy, reference = tables(
        loss, {View(M, Y): [0.0], View(M, BAD): [10.0], View(M2, Y): [-10.0]}, torch.float64
    )
    policy = {view: value.requires_grad_() for view, value in policy.items()}
    output = loss(policy, reference)
    output.loss.backward()
    own, bad, other = (policy[v].grad.item() for v in (View(M, Y), View(M, BAD), View(M2, Y)))
    share = 1 / (1 + math.exp(-2))
    assert bad / -own == pytest.approx(share)
    assert other / -own == pytest.approx(1 - share)
    assert output.metrics["share/text"].item() == pytest.approx(share)


def test_sft_is_the_mean_of_the_tokens_log_probs():
    loss = SFT(mirrored=True)
    own, mirrored = View(M, Y, quantity=Quantity.MEAN), View(M2, Y2, quantity=Quantity.MEAN)
    table = {own: torch.tensor([-1.0, -2.0]), mirrored: torch.tensor([-3.0, -5.0])}
    output = loss(table, {})
    assert output.per_row.tolist() == [2.0, 3.5]
    assert output.loss.item() == 2.75
    only = SFT()
    assert only({own: table[own]}, {}).per_row.tolist() == [1.0, 2.0]
