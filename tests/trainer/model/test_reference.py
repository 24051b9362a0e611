"""References: without adapters, another model, a file; what is stale is refused by its name."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields, replace

import pyarrow.parquet as pq
import pytest
import torch

from fakes.pairs import a_pair, a_row, save
from fakes.tiny.vlm import save_vlm
from trainer.data.batches import BatchBuilder
from trainer.data.rows import Rows
from trainer.errors import UsageError
from trainer.losses import DPO, ICVCO, MDPO, SVCO
from trainer.losses.views import Images
from trainer.model.logprobs import ViewLogProbs
from trainer.model.reference import (
    Fingerprint,
    ReferenceFile,
    adapters_off,
    frozen,
    precompute,
    weights_digest,
    write_reference_file,
)

VIEWS = MDPO().views | ICVCO().views
SEED = 3


def with_adapters(model):
    """Adapters that say something else than the model."""
    from peft import LoraConfig, get_peft_model

    targets = r".*language_model.*\.(q|k|v|o|gate|up|down)_proj"
    torch.manual_seed(0)
    return get_peft_model(
        model, LoraConfig(r=4, target_modules=targets, init_lora_weights="gaussian")
    )


def close(one, other):
    assert one.keys() == other.keys()
    for view, values in one.items():
        torch.testing.assert_close(values, other[view], rtol=0, atol=1e-3)


@pytest.mark.parametrize("name", ["llava-interleave", "qwen3-vl"])
def test_the_policy_without_its_adapters_is_the_model_it_was(checkpoint, name):
    made = checkpoint(name)
    batch = BatchBuilder(made.family, VIEWS, SEED)([a_row(0), a_row(1)], 0)
    before = frozen(ViewLogProbs(made.model()))(batch)
    model = with_adapters(made.model())
    module = ViewLogProbs(model)
    close(module(batch), before)  # adapters start at nothing
    for parameter_name, parameter in model.named_parameters():
        if "lora_B" in parameter_name:
            torch.nn.init.normal_(parameter, std=0.5)
    model.train()
    policy, reference = module(batch), adapters_off(module, model)(batch)
    close(reference, before)
    assert not any(values.requires_grad for values in reference.values())
    for view, values in policy.items():
        assert values.requires_grad
        assert (values - reference[view]).abs().max() > 0.1
    # ... and the adapters are on again, and learn.
    close(module(batch), policy)
    sum(values.sum() for values in policy.values()).backward()
    learned = [n for n, p in model.named_parameters() if p.grad is not None]
    assert learned
    assert all("lora" in n and "language_model" in n for n in learned)


def test_policy_and_reference_see_one_crop(checkpoint):
    """Equal weights, equal images: the ratio is 0, which two crops would not give."""
    made = checkpoint("llava-1.5")
    build = BatchBuilder(made.family, MDPO().views, SEED)
    (crop,) = (v for v in MDPO().views if v.images is Images.CROP)
    policy = with_adapters(made.model())
    module = ViewLogProbs(policy)
    batch = build([a_row(0)], 0)
    ratio = module(batch)[crop] - adapters_off(module, policy)(batch)[crop]
    assert float(ratio.detach().abs()) < 1e-4
    other = module(build([a_row(0)], 1))[crop] - adapters_off(module, policy)(batch)[crop]
    assert float(other.detach().abs()) > 1e-2


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return Rows.open([save(tmp_path_factory.mktemp("rows"), [a_pair(n) for n in range(5)])])


@pytest.fixture(scope="module")
def fingerprint(checkpoint):
    return Fingerprint.of(checkpoint("qwen3-vl").family, None, "float32 weights")


@pytest.fixture(scope="module")
def module(checkpoint):
    return ViewLogProbs(checkpoint("qwen3-vl").model())


@pytest.fixture(scope="module")
def builder(checkpoint):
    return BatchBuilder(checkpoint("qwen3-vl").family, VIEWS, SEED)


@pytest.fixture(scope="module")
def file(tmp_path_factory, rows, fingerprint, module, builder):
    path = tmp_path_factory.mktemp("reference") / "reference.parquet"
    tables = precompute(rows, builder, module, epochs=2, micro_batch=2)
    write_reference_file(path, tables, fingerprint=fingerprint, seed=SEED, epochs=2)
    return path


def opened(path, fingerprint, rows, **changes):
    asked = {
        "views": VIEWS,
        "pair_ids": rows.pair_ids,
        "seed": SEED,
        "epochs": 2,
    } | changes
    return ReferenceFile.open(path, fingerprint, **asked)


def test_a_file_gives_what_the_model_gives(file, fingerprint, rows, builder, module):
    side_car = opened(file, fingerprint, rows)
    for epoch in (0, 1):
        batch = builder([rows[4], rows[0], rows[2]], epoch)
        close(side_car(batch), frozen(module)(batch))
    # What depends on no draw is there once; the rest once an epoch.
    table = pq.read_table(file)
    fixed = [v for v in VIEWS if v.images not in (Images.CROP, Images.BOTH)]
    assert table.num_rows == 5 * (2 * len(VIEWS) - len(fixed))
    few = opened(file, fingerprint, rows, views=DPO().views, seed=99, epochs=7)
    assert few(builder([rows[0]], 5)).keys() == DPO().views


def test_every_part_that_changed_is_named(file, fingerprint, rows):
    for field in fields(Fingerprint):
        with pytest.raises(UsageError, match=f"made with another {field.name}; make the file"):
            opened(file, replace(fingerprint, **{field.name: "x"}), rows)
    with pytest.raises(UsageError, match="another model, another processor;"):
        opened(file, replace(fingerprint, model="x", processor="y"), rows)


def test_a_row_that_changed_is_named(file, fingerprint, rows, builder):
    side_car = opened(file, fingerprint, rows)
    with pytest.raises(UsageError, match="texts or images of pair pair-0001 have changed"):
        side_car(builder([a_row(0), a_row(1, chosen="The ring is blue.", chosen_spans=())], 0))
    changed = a_row(1, rejected_image=a_row(2).rejected_image)
    with pytest.raises(UsageError, match="pair-0001 have changed"):
        side_car(builder([changed], 0))


def test_what_was_not_computed_is_refused_before_the_first_step(file, fingerprint, rows, tmp_path):
    with pytest.raises(UsageError, match="made for seed 3 and 2 epochs, this run has seed 4 and 2"):
        opened(file, fingerprint, rows, seed=4)
    with pytest.raises(UsageError, match="this run has seed 3 and 3"):
        opened(file, fingerprint, rows, epochs=3)
    with pytest.raises(UsageError, match="lacks 1 pairs, pair-0005 for one"):
        opened(file, fingerprint, rows, pair_ids=[*rows.pair_ids, "pair-0005"])
    with pytest.raises(UsageError, match=r"lacks the views .*none/chosen, none/counterfactual"):
        opened(file, fingerprint, rows, views=SVCO().views)
    (tmp_path / "other.parquet").write_bytes(b"no")
    with pytest.raises(UsageError, match="not a file of reference log-probs"):
        opened(tmp_path / "other.parquet", fingerprint, rows)
    pq.write_table(pq.read_table(file).replace_schema_metadata({}), tmp_path / "bare.parquet")
    with pytest.raises(UsageError, match="not a file of reference log-probs"):
        opened(tmp_path / "bare.parquet", fingerprint, rows)


def test_weights_are_told_apart_by_content(tmp_path):
    model = save_vlm(tmp_path / "model", "llava-interleave")
    digest = weights_digest(str(model), None)
    copy = shutil.copytree(model, tmp_path / "copy")
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"transformers_version": "9"}))
    assert weights_digest(str(copy), None) == digest
    (copy / "config.json").write_text(json.dumps(config | {"vision_feature_layer": -2}))
    assert weights_digest(str(copy), None) != digest
    other = save_vlm(tmp_path / "other", "llava-interleave", seed=1)
    assert weights_digest(str(other), None) != digest
    for path in copy.glob("*.safetensors"):
        path.unlink()
    with pytest.raises(UsageError, match=r"no \*\.safetensors"):
        weights_digest(str(copy), None)
