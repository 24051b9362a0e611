"""KL over the vocabulary in pieces, held against whole distributions in float64."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from fakes.pairs import a_row
from tests.trainer.plain import plain_counted, plain_distributions
from trainer.data.batches import BatchBuilder, Hidden
from trainer.data.packing import Places
from trainer.errors import UsageError
from trainer.losses import DPO, CHiP
from trainer.losses.views import Answer, Images, Quantity, Tokens, View
from trainer.model import logprobs
from trainer.model.logprobs import ViewLogProbs
from trainer.model.reference import adapters_off, check_fits_a_file
from trainer.model.token_kl import kl_by_position, token_kl
from trainer.model.trainable import make_trainable
from trainer.settings import Lora

ROWS = [a_row(n) for n in range(2)]
LORA = Lora(rank=4, targets=r".*language_model.*\.(q|v)_proj|lm_head")


def test_by_hand():
    """Reference 3/4 and 1/4, policy 1/2 each: 3/4 log 3/2 + 1/4 log 1/2."""
    none = np.zeros(0, np.int64)
    places = Places(none, none, none, none, np.zeros(0, np.float32))
    head = torch.nn.Identity()
    policy = Hidden(torch.zeros(1, 2), head, 2, places)
    reference = Hidden(torch.tensor([[math.log(3), 0.0]]), head, 2, places)
    (found,) = kl_by_position(policy, reference).tolist()
    assert found == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5), abs=1e-6)


@pytest.mark.parametrize("share", [True, False])
def test_in_pieces_through_the_model_is_the_whole_vocabulary_in_float64(
    checkpoint, monkeypatch, share
):
    """CHiP's loss and gradients, adapters on the head among them; packed and plain."""
    made = checkpoint("qwen2.5-vl")
    views = CHiP().views | {View(Images.CHOSEN, Answer.CHOSEN, Tokens.SPANS, Quantity.KL)}
    batch = BatchBuilder(made.family, views, 3, share_prompts=share)(ROWS, 1)
    model = make_trainable(made.model(), LORA, 0)
    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
    monkeypatch.setattr(logprobs, "LOGITS_BYTES", 4 * 2 * 5 * len(model.lm_head.weight))
    module = ViewLogProbs(model)
    policy = module(batch)
    reference = adapters_off(module, model)(batch)
    assert {v.quantity for v in policy} == {Quantity.SUM}
    policy = policy | token_kl(batch)
    assert not batch.exchange.hidden
    CHiP()(policy, reference).loss.backward()
    found = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()

    model.double()
    wanted, base = {}, {}
    for view in views:
        cells, others = [], []
        for row, draws in zip(ROWS, batch.draws, strict=True):
            here, answer = plain_distributions(model, made.family, row, view, draws)
            with torch.no_grad(), model.disable_adapter():
                there, _ = plain_distributions(model, made.family, row, view, draws)
            counted = plain_counted(made.family, row, view, answer).double()
            if view.quantity is Quantity.KL:
                cells.append(((there.exp() * (there - here)).sum(-1) * counted).sum())
            else:
                tokens = torch.arange(len(answer)), torch.tensor(answer)
                cells.append((here[tokens] * counted).sum())
                others.append((there[tokens] * counted).sum())
        wanted[view] = torch.stack(cells)
        if others:
            base[view] = torch.stack(others)
    for view, values in wanted.items():
        torch.testing.assert_close(policy[view].double(), values, rtol=1e-4, atol=1e-3)
        assert view.quantity is Quantity.SUM or (values > 0.01).all()
    CHiP()(wanted, base).loss.backward()
    grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert any("lm_head" in name for name in grads)
    assert grads.keys() == found.keys()
    for name, grad in grads.items():
        scale = max(1e-3, float(grad.abs().max()))
        torch.testing.assert_close(found[name].double(), grad, rtol=0, atol=2e-3 * scale)


def test_noise_is_drawn_once_for_policy_and_reference_and_anew_each_epoch(checkpoint):
    made = checkpoint("llava-interleave")
    build = BatchBuilder(made.family, frozenset({View(Images.NOISED, Answer.CHOSEN)}), 3)
    one, same, later = (build(ROWS, epoch).pixels["pixel_values"] for epoch in (0, 0, 1))
    other = replace(build, seed=4)(ROWS, 0).pixels["pixel_values"]
    assert torch.equal(one, same)
    assert not torch.equal(one, later)
    assert not torch.equal(one, other)
    clean = replace(build, views=DPO().views)(ROWS, 0).pixels["pixel_values"]
    noise = one - 0.8630 * clean  # sqrt of the share that 501 steps keep, see `plain_noise`
    assert noise.std().item() == pytest.approx(0.5052, abs=0.02)


def test_a_reference_file_holds_no_distributions():
    check_fits_a_file(DPO())
    with pytest.raises(UsageError, match=r"loss chip compares distributions .* train without"):
        check_fits_a_file(CHiP())
