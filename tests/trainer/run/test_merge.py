"""Merging: a plain checkpoint that gives what the model with its adapter gives."""

from __future__ import annotations

import json

import pytest
import torch
import yaml
from transformers import AutoModelForImageTextToText, AutoProcessor

from fakes.tiny.vlm import FAMILIES, save_vlm
from trainer.errors import UsageError
from trainer.evaluate.export import export
from trainer.families import family_of, load_config
from trainer.model.trainable import make_trainable
from trainer.model.weights import gather_weights, save_weights
from trainer.run.merge import base_of, merge, trained_weights
from trainer.settings import Full, Lora


def logits(model):
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits


def scrambled_adapter(folder, base):
    model = AutoModelForImageTextToText.from_pretrained(base)
    policy = make_trainable(model, Lora(rank=2, alpha=4), 0).eval()
    generator = torch.Generator().manual_seed(1)
    for parameter in policy.parameters():
        if parameter.requires_grad:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3
    save_weights(folder / "final", policy, gather_weights(policy, keep=True))
    return policy


@pytest.mark.parametrize("family", FAMILIES)
def test_a_merged_checkpoint_gives_what_the_adapter_gives(tmp_path, family):
    base = save_vlm(tmp_path / "base", family)
    policy = scrambled_adapter(tmp_path / "run", base)
    out = merge(tmp_path / "run", tmp_path / "merged")
    # From the files alone: no adapter is left, and nothing of the base is needed.
    merged = AutoModelForImageTextToText.from_pretrained(out)
    assert not any("lora" in name for name, _ in merged.named_parameters())
    plain = logits(AutoModelForImageTextToText.from_pretrained(base))
    assert (logits(policy) - plain).abs().max() > 0.01
    # float32, where x (W + BA) and x W + x A B differ by rounding.
    torch.testing.assert_close(logits(merged), logits(policy), atol=1e-4, rtol=1e-4)
    processor = AutoProcessor.from_pretrained(out)
    assert processor.chat_template == AutoProcessor.from_pretrained(base).chat_template


def test_merged_in_the_type_of_the_base_or_in_the_one_asked_for(tmp_path):
    base = save_vlm(tmp_path / "base", "llava-1.5")
    model = AutoModelForImageTextToText.from_pretrained(base, dtype=torch.bfloat16)
    model.save_pretrained(base)
    scrambled_adapter(tmp_path / "run", base)
    for dtype, expected in ((None, torch.bfloat16), ("float32", torch.float32)):
        out = merge(tmp_path / "run", tmp_path / f"merged-{dtype}", dtype=dtype)
        merged = AutoModelForImageTextToText.from_pretrained(out, dtype="auto")
        assert merged.lm_head.weight.dtype == expected


def test_a_whole_model_is_written_as_it_is(tmp_path):
    base = save_vlm(tmp_path / "base", "qwen3-vl")
    model = AutoModelForImageTextToText.from_pretrained(base)
    policy = make_trainable(model, Full(name="full"), 0)
    save_weights(tmp_path / "run" / "final", policy, gather_weights(policy, keep=True))
    assert base_of(trained_weights(tmp_path / "run")) is None
    out = merge(tmp_path / "run", tmp_path / "merged")
    again = AutoModelForImageTextToText.from_pretrained(out)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_what_cannot_be_merged(tmp_path):
    with pytest.raises(UsageError, match="no trained weights"):
        merge(tmp_path, tmp_path / "out")
    base = save_vlm(tmp_path / "base", "llava-1.5")
    scrambled_adapter(tmp_path / "run", base)
    with pytest.raises(UsageError, match="give it with --model"):
        merge(tmp_path / "run", tmp_path / "out", model=str(tmp_path / "gone"))
    (tmp_path / "there").mkdir()
    with pytest.raises(UsageError, match="exists"):
        merge(tmp_path / "run", tmp_path / "there")


@pytest.mark.parametrize("family", FAMILIES)
def test_configurations_for_the_evaluation_kits(tmp_path, family):
    base = save_vlm(tmp_path / "base", family)
    out = export(base, tmp_path / "out", "mine")
    names = family_of(load_config(str(base))).evaluators
    if names.vlmevalkit is None:
        assert not (out / "vlmevalkit.json").exists()
        assert "vlmevalkit" not in (out / "commands.sh").read_text()
    else:
        kit = json.loads((out / "vlmevalkit.json").read_text())
        model = kit["model"]["mine"]
        assert model["class"] == names.vlmevalkit
        assert AutoProcessor.from_pretrained(model["model_path"])
        # VLMEvalKit chooses transformers' plain LLaVA class by a word in the path.
        plain = family in ("llava-1.5", "llava-interleave")
        assert ("interleave" in model["model_path"]) == plain
        assert kit["data"]["POPE"] == {"class": "ImageYORNDataset", "dataset": "POPE"}
    (arguments,) = yaml.safe_load((out / "lmms_eval.yaml").read_text())
    assert arguments["model"] == names.lmms_eval
    assert arguments["model_args"] == f"pretrained={base.resolve()}"
    assert "pope" in arguments["tasks"].split(",")
    assert str(out / "lmms_eval.yaml") in (out / "commands.sh").read_text()


def test_an_adapter_is_no_plain_checkpoint(tmp_path):
    base = save_vlm(tmp_path / "base", "llava-1.5")
    scrambled_adapter(tmp_path / "run", base)
    with pytest.raises(UsageError, match="trainer merge"):
        export(tmp_path / "run" / "final" / "weights", tmp_path / "out", "x")
    with pytest.raises(UsageError, match=r"config\.json is missing"):
        export(tmp_path, tmp_path / "out", "x")
