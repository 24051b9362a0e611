"""Log-probs of all views in one forward, held against one view at a time with all logits."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import pytest
import torch
from transformers import AutoModelForImageTextToText

from fakes.pairs import a_row
from fakes.tiny.vlm import FAMILIES, save_vlm
from tests.trainer.plain import plain_log_prob
from trainer.data.batches import BatchBuilder
from trainer.data.rows import Rows
from trainer.errors import UsageError
from trainer.families import family_of, load_family
from trainer.families.encoder import calls
from trainer.losses import ICVCO, MDPO, SFT, SVCO, SymMPO
from trainer.losses.views import Answer, Images, Tokens, View
from trainer.model import logprobs
from trainer.model.logprobs import ViewLogProbs, shares_prompts, token_log_probs

EVERY_VIEW = frozenset[object]().union(
    *(loss.views for loss in (MDPO(), SVCO(), SymMPO(), ICVCO(), SFT(mirrored=True))),
    {
        View(Images.NOISED, Answer.CHOSEN),
        View(Images.CHOSEN, Answer.REJECTED, Tokens.SPANS),
        *(
            View(Images.CHOSEN, one, tokens, against=other)
            for one, other in permutations((Answer.CHOSEN, Answer.COUNTERFACTUAL))
            for tokens in (Tokens.FROM_FIRST_DIFFERENCE, Tokens.DIFFERING)
        ),
    },
)
ROWS = [a_row(n) for n in range(3)]
EPOCH = 2
PER_TOKEN = 1e-5
"""Nats for every counted token: answers here have tens of tokens and hundreds of nats."""


def table_of(model, build, rows=ROWS, epoch=EPOCH, **more):
    with torch.no_grad():
        return ViewLogProbs(model, **more)(build(rows, epoch))


def close(found, wanted, tokens=30):
    assert found.keys() == wanted.keys()
    for view, values in found.items():
        torch.testing.assert_close(values, wanted[view], rtol=0, atol=PER_TOKEN * tokens)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_mixed_padded_batch_is_every_row_and_view_on_its_own(checkpoint, name):
    """All families: 0, 1 and 2 images, other sizes and lengths, both orders, a crop, spans."""
    made = checkpoint(name)
    model = made.model()
    build = BatchBuilder(made.family, EVERY_VIEW, 3)
    batch = build(ROWS, EPOCH)
    assert len({d.chosen_first for d in batch.draws}) == 2
    table = table_of(model, build)
    plain = table_of(model, replace(build, share_prompts=False))
    with torch.no_grad():
        for view in EVERY_VIEW:
            cell = batch.views.index(view)
            for number, row in enumerate(ROWS):
                cells = number * len(batch.views) + cell
                tokens = sum(int((p.log_probs.cells == cells).sum()) for p in batch.packed)
                wanted = plain_log_prob(model, made.family, row, view, batch.draws[number])
                for found in (table, plain):
                    assert abs(found[view][number] - wanted) <= PER_TOKEN * max(tokens, 1)
    assert {values.dtype for values in table.values()} == {torch.float32}


@pytest.mark.parametrize("name", ["llava-1.5", "qwen2.5-vl"])
def test_other_company_other_passes_other_attention_same_values(checkpoint, name):
    made = checkpoint(name)
    build = BatchBuilder(made.family, EVERY_VIEW, 3)
    model = made.model()
    table = table_of(model, build)
    alone = [table_of(model, build, [row]) for row in ROWS]
    close({v: torch.cat([one[v] for one in alone]) for v in table}, table)
    close(table_of(model, build, pass_tokens=1), table)
    close(table_of(made.model("eager"), build), table)


def test_rows_of_a_real_run(checkpoint, real_run):
    made = checkpoint("llava-onevision")
    build = BatchBuilder(made.family, ICVCO().views, 3)
    rows, _ = Rows.open([real_run]).usable(ICVCO().needs, "loss icvco")
    some = [rows[n] for n in range(2)]
    model = made.model()
    table = table_of(model, build, some, 0)
    draws = build(some, 0).draws
    with torch.no_grad():
        for view in build.views:
            for number, row in enumerate(some):
                wanted = plain_log_prob(model, made.family, row, view, draws[number])
                assert abs(table[view][number] - wanted) <= PER_TOKEN * 40


def test_the_head_in_pieces_is_the_head_at_once(monkeypatch):
    torch.manual_seed(0)
    head = torch.nn.Linear(16, 50)
    states = torch.randn(23, 16, requires_grad=True)
    targets = torch.randint(50, (23,))
    wanted = head(states).log_softmax(-1)[torch.arange(23), targets]
    wanted.sin().sum().backward()
    kept = [states.grad, head.weight.grad, head.bias.grad]
    states.grad = head.weight.grad = head.bias.grad = None
    monkeypatch.setattr(logprobs, "LOGITS_BYTES", 4 * 50 * 5)
    rows = []
    head.register_forward_hook(lambda _, inputs, __: rows.append(len(inputs[0])))
    found = token_log_probs(head, states, targets)
    assert rows == [5, 5, 5, 5, 3]
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    found.sin().sum().backward()
    assert len(rows) == 10  # again in the backward pass
    for new, old in zip([states.grad, head.weight.grad, head.bias.grad], kept, strict=True):
        torch.testing.assert_close(new, old, rtol=0, atol=1e-5)
    with torch.no_grad():
        assert torch.equal(token_log_probs(head, states, targets), found)


def test_the_log_softmax_is_float32_whatever_the_model_computes_in():
    head = torch.nn.Linear(8, 40).bfloat16()
    states = torch.randn(4, 8).bfloat16()
    found = token_log_probs(head, states, torch.arange(4))
    wanted = head(states).double().log_softmax(-1).diagonal()
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=1e-5)


def test_only_answers_go_through_the_head(checkpoint):
    made = checkpoint("llava-interleave")
    model = made.model()
    rows = []
    model.lm_head.register_forward_hook(lambda _, inputs, __: rows.append(inputs[0].shape[0]))
    build = BatchBuilder(made.family, SVCO().views, 3)
    table_of(model, build, ROWS[:1])
    answers = [made.family.answer(t).ids for t in (ROWS[0].chosen, ROWS[0].counterfactual)]
    # Three images or none, two answers each, less the words that the two begin with.
    assert sum(rows) <= 3 * sum(len(ids) for ids in answers)


def towers(model):
    """Counts of tiles or patches that the vision tower has seen."""
    seen = []
    pattern = family_of(model.config).vision_tower
    (tower,) = (m for name, m in model.model.named_modules() if name == pattern)

    def note(_module, args, kwargs, _output):
        seen.append(len(args[0]) if args else len(kwargs["pixel_values"]))

    tower.register_forward_hook(note, with_kwargs=True)
    return seen


@pytest.mark.parametrize(
    "name", ["llava-next", "llava-onevision", "qwen3-vl", "internvl", "idefics3"]
)
def test_an_image_is_encoded_once_for_policy_and_reference(checkpoint, name):
    made = checkpoint(name)
    views = SVCO().views if name == "llava-next" else SVCO().views | ICVCO().views
    build = BatchBuilder(made.family, views, 3)
    model = made.model().requires_grad_(requires_grad=False)
    fresh = table_of(model, build)
    seen = towers(model)
    batch = build(ROWS, EPOCH)
    module = ViewLogProbs(model)
    first, second = module(batch), module(batch)
    assert sum(seen) == len(batch.pixels["pixel_values"])
    close(first, fresh)
    for view, values in first.items():
        assert torch.equal(values, second[view])
    # Another model encodes for itself.
    ViewLogProbs(made.model().requires_grad_(requires_grad=False))(batch)
    assert len(batch.exchange.features) == 2


@pytest.mark.parametrize("name", FAMILIES)
def test_gradients_are_those_of_the_plain_way(checkpoint, name):
    """All weights learn, the tower's, too: through shared images, shared words, deepstack."""
    made = checkpoint(name)
    views = SVCO().views | {v for v in ICVCO().views if v.tokens is Tokens.SPANS}
    build = BatchBuilder(made.family, frozenset(views), 3)
    factors = {view: 0.1 * (n + 1) for n, view in enumerate(sorted(views, key=lambda v: v.key))}

    def gradients(log_probs):
        model = made.model()
        batch = build(ROWS[:2], 0)
        if log_probs == "plain":
            cells = [
                (v, plain_log_prob(model, made.family, r, v, batch.draws[n]))
                for n, r in enumerate(ROWS[:2])
                for v in views
            ]
            sum((factors[v] * x).tanh() * 0.01 + x * 1e-3 for v, x in cells).backward()
        else:
            model.train()
            model.gradient_checkpointing_enable({"use_reentrant": False})
            table = ViewLogProbs(model)(batch)
            assert not batch.exchange.features
            terms = [(factors[v] * x).tanh() * 0.01 + x * 1e-3 for v, x in table.items()]
            torch.stack(terms).sum().backward()
        return {n: p.grad for n, p in model.named_parameters() if p.grad is not None}

    wanted, found = gradients("plain"), gradients("ours")
    assert wanted.keys() == found.keys()
    family = family_of(made.family.config)
    assert {family.part_of(n) for n in found} == {"language_model", "projector", "vision_tower"}
    for name_, gradient in found.items():
        scale = max(1.0, float(wanted[name_].abs().max()))
        torch.testing.assert_close(gradient, wanted[name_], rtol=0, atol=1e-4 * scale)


def test_a_row_that_counts_nothing_still_hangs_on_the_weights(checkpoint):
    """No active token in the whole batch: zero gradients, not none, as DDP wants them."""
    made = checkpoint("llava-interleave")
    build = BatchBuilder(
        made.family, frozenset(v for v in ICVCO().views if v.tokens is Tokens.SPANS), 3
    )
    model = made.model()
    table = ViewLogProbs(model)(build([a_row(0, chosen_spans=(), counterfactual_spans=())], 0))
    assert not torch.stack(list(table.values())).any()
    sum(v.sum() for v in table.values()).backward()
    learned = model.model.language_model.layers[0].self_attn.q_proj.weight
    assert learned.grad is not None
    assert not learned.grad.any()


def test_a_processor_that_counts_otherwise_than_the_model_is_named(tmp_path):
    """As of LLaVA-1.5 checkpoints that were saved before `num_additional_image_tokens`."""
    path = save_vlm(tmp_path, "llava-1.5")
    settings = path / "processor_config.json"
    settings.write_text(settings.read_text().replace('_tokens": 1', '_tokens": 0'))
    build = BatchBuilder(load_family(str(path)), SVCO().views, 3)
    model = AutoModelForImageTextToText.from_pretrained(path)
    message = f"{path} makes 16 features.* writes 15 placeholders; correct processor_config.json"
    with pytest.raises(UsageError, match=message):
        table_of(model, build)


def test_trees_only_where_attention_takes_their_masks(checkpoint):
    model = checkpoint("llava-interleave").model()
    assert shares_prompts(model)
    config = model.model.language_model.config
    config._attn_implementation = "flash_attention_2"
    assert not shares_prompts(model)
    config._attn_implementation = "sdpa"
    config.layer_types = ["full_attention", "sliding_attention"]
    assert not shares_prompts(model)


def test_frozen_towers_take_few_patches_at_a_time_and_never_mix_company():
    assert calls([4, 4, 4], [True] * 3, at_once=8) == [[0, 1], [2]]
    # An image of more patches goes alone; it is one call in any case.
    assert calls([4, 20, 4], [True] * 3, at_once=8) == [[0], [1], [2]]
    assert calls([4, 20, 4], [True] * 3, at_once=None) == [[0, 1, 2]]
    assert calls([1] * 4, [True, False, False, True], at_once=8) == [[0, 3], [1, 2]]
    assert calls([], [], at_once=1) == []
