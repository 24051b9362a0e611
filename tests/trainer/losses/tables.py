"""Tables of log-probs for the tests, made from the log-ratios that a test wants."""

from __future__ import annotations

from typing import get_args

import torch

from trainer.losses import DPO, ICVCO, SFT, VDPO, Loss, OViP, PreferenceLoss
from trainer.losses.views import Answer, Images, Quantity, Tokens, View

M, M2, NONE, CROP, NOISED, BOTH = (
    Images.CHOSEN,
    Images.REJECTED,
    Images.NONE,
    Images.CROP,
    Images.NOISED,
    Images.BOTH,
)
Y, Y2, BAD = Answer.CHOSEN, Answer.COUNTERFACTUAL, Answer.REJECTED

LOSSES: dict[str, type[PreferenceLoss]] = {loss.name: loss for loss in get_args(get_args(Loss)[0])}
"""Every loss that there is, by name."""
ALL = {name: loss() for name, loss in LOSSES.items()} | {
    "dpo on counterfactuals": DPO(negative="counterfactual"),
    "ovip released": OViP(form="released", image_weight=0.5, anchor_weight=0.3),
    "icvco released": ICVCO(anchor_counted_twice=True),
    "icvco, one branch": ICVCO(multi_weight=0, multi_anchor_weight=0, vcdist_weight=0),
    "vdpo with images": VDPO(image_weight=0.5),
    "sft on both": SFT(mirrored=True),
}
PREFERENCES = {name: loss for name, loss in ALL.items() if loss.reference_views}


def single(answer, image):
    """A cell of IC-VCO's single branch."""
    return View(image, answer, Tokens.SPANS)


def multi(answer, image):
    """A cell of IC-VCO's multi branch."""
    return View(BOTH, answer, anchor=image)


def tables(loss, ratios, dtype=torch.float32):
    """Policy and reference with these log-ratios: {view: [number per row]}; missing ones are 0."""
    rows = max((len(values) for values in ratios.values()), default=1)
    policy, reference = {}, {}
    for k, view in enumerate(sorted(loss.views, key=lambda view: view.key)):
        base = torch.full((rows,), -50.0 - k, dtype=dtype)  # any: only the difference counts
        reference[view] = base
        value = torch.tensor(ratios.get(view, [0.0] * rows), dtype=dtype)
        policy[view] = value if view.quantity is Quantity.KL else base + value
    return policy, {view: reference[view] for view in loss.reference_views}


def drawn(loss, rows=3, seed=0, scale=10.0, dtype=torch.float32):
    """Policy and reference at random, the policy with gradient."""
    generator = torch.Generator().manual_seed(seed)
    policy, reference = {}, {}
    for view in sorted(loss.views, key=lambda view: view.key):
        reference[view] = -60 + scale * torch.randn(rows, generator=generator, dtype=dtype)
        step = scale * torch.randn(rows, generator=generator, dtype=dtype)
        cell = step.abs() if view.quantity is Quantity.KL else reference[view] + step
        policy[view] = cell.requires_grad_()
    return policy, {view: reference[view] for view in loss.reference_views}
