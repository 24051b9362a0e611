"""What learns, for every family: the language model and nothing that the pattern does not name."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import AutoModelForImageTextToText

from fakes.tiny.vlm import FAMILIES, save_vlm
from trainer.errors import UsageError
from trainer.families import family_of
from trainer.model.trainable import make_trainable, parameter_groups, trainable
from trainer.settings import Full, Lora


@pytest.fixture(scope="module", params=FAMILIES)
def checkpoint(request, tmp_path_factory):
    return save_vlm(tmp_path_factory.mktemp("vlm"), request.param)


def load(checkpoint):
    return AutoModelForImageTextToText.from_pretrained(checkpoint)


def test_adapters_spare_the_tower_and_full_tuning_takes_what_it_names(checkpoint):
    model = load(checkpoint)
    sizes = dict.fromkeys(("language_model", "projector", "vision_tower"), 0)
    for name, parameter in model.named_parameters():
        sizes[family_of(model.config).part_of(name)] += parameter.numel()
    assert all(sizes.values())
    for tower, projector in ((False, False), (False, True), (True, True)):
        make_trainable(model, Full(name="full", vision_tower=tower, projector=projector), 0)
        wanted = {"language_model": sizes["language_model"]}
        wanted |= {"projector": sizes["projector"]} if projector else {}
        wanted |= {"vision_tower": sizes["vision_tower"]} if tower else {}
        assert trainable(model).by_part == wanted

    adapted = make_trainable(model, Lora(rank=2), 0)
    found = trainable(adapted)
    # Seven projections in two layers, two matrices each.
    assert found.tensors == 2 * 7 * 2
    assert set(found.by_part) == {"language_model"}
    assert found.total == sum(sizes.values()) + found.parameters
    assert f"{found.parameters:,} of {found.total:,}" in str(found)
    family = family_of(model.config)
    inside = {family.part_of(n) for n, _ in adapted.named_modules() if "lora" in n}
    assert inside == {"language_model"}


def test_suffixes_alone_would_hit_the_tower(tmp_path):
    """What the papers' target lists do by accident, and the regex is there to avoid."""
    model = load(save_vlm(tmp_path, "llava-1.5"))
    found = trainable(make_trainable(model, Lora(rank=2, targets=r".*\.(q|k|v)_proj"), 0))
    assert found.by_part["vision_tower"] > 0


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (r".*qkv_proj", "matches nothing"),
        (r".*language_model.*norm", "which is not a linear layer"),
        (r"(", "is not a regular expression"),
    ],
)
def test_patterns_that_do_not_fit(tmp_path, targets, said):
    model = load(save_vlm(tmp_path, "llava-1.5"))
    with pytest.raises(UsageError, match=said):
        make_trainable(model, Lora(targets=targets), 0)


def test_adapters_begin_with_the_seed_in_float32_and_leave_the_generator_alone(tmp_path):
    save_vlm(tmp_path, "llava-1.5")

    def first(seed):
        model = load(tmp_path).to(torch.bfloat16)
        before = torch.get_rng_state()
        adapted = make_trainable(model, Lora(rank=2), seed)
        assert torch.equal(before, torch.get_rng_state())
        return next(p for p in adapted.parameters() if p.requires_grad)

    assert first(0).dtype == torch.float32
    assert torch.equal(first(0), first(0))
    assert not torch.equal(first(0), first(1))


def test_the_models_own_dropouts_are_silenced(tmp_path):
    model = load(save_vlm(tmp_path, "llava-1.5", attention_dropout=0.3))
    attention = model.model.language_model.layers[0].self_attn
    attention.drop = nn.Dropout(0.2)
    assert attention.attention_dropout == 0.3
    make_trainable(model, Full(name="full"), 0)
    assert attention.attention_dropout == 0.0
    assert attention.drop.p == 0.0


def test_vectors_do_not_decay():
    model = nn.Linear(3, 2)
    groups = parameter_groups(model, 0.1)
    assert [(len(g["params"]), g["weight_decay"]) for g in groups] == [(1, 0.1), (1, 0.0)]
    model.weight.requires_grad_(False)
    assert [g["weight_decay"] for g in parameter_groups(model, 0.1)] == [0.0]
