"""The commands, from shards of real recipes to a trained, merged and measured model."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

from tests.trainer.training import lines, overrides, result
from trainer.__main__ import main


def train_command(run, model, out, preset, *more):
    sets = [part for text in overrides(preset, *more) for part in ("--set", text)]
    return ["train", run, "--model", str(model), "--output", str(out), "--preset", preset, *sets]


@pytest.fixture(scope="module")
def trained(real_run, checkpoint, tmp_path_factory):
    """A run with rows held out, over what `demo` makes: five recipes."""
    out = tmp_path_factory.mktemp("commands") / "out"
    more = ("held_out=0.3", "length=4 steps", "loss.negative=counterfactual")
    model = checkpoint("qwen2.5-vl").path
    assert main(train_command(real_run, model, out, "mdpo", *more)) == 0
    return out


def test_the_probe_and_the_questions(trained, real_run, tmp_path, capsys):
    report = tmp_path / "sub" / "report.json"
    asked = ["evaluate", real_run, "--run", str(trained), "--device", "cpu", "--weights", "float32"]
    assert main([*asked, "--output", str(report)]) == 0
    shown = capsys.readouterr().out
    content = json.loads(report.read_text())
    kinds = {line["kind"]: line for line in content["probe"]}
    assert {"all", "attribute", "count", "crop", "object", "position"} <= kinds.keys()
    everything = kinds.pop("all")
    assert (
        everything["shown"]["rows"]
        == content["pairs"]
        == sum(line["shown"]["rows"] for line in kinds.values())
    )
    assert kinds["crop"]["mirrored"] is None
    assert 0 <= everything["shown"]["low"] <= everything["shown"]["value"]
    assert {line["chosen_by"] for line in content["pope"]} >= {"removed"}
    assert all(kind in shown for kind in kinds)

    # What was held out is another, smaller set; nothing of the untrained model changes.
    assert main([*asked, "--held-out", "--no-pope", "--output", str(report)]) == 0
    held = json.loads(report.read_text())
    card = json.loads((trained / "run.json").read_text())
    assert held["pope"] == []
    # Crops have no counterfactual, so the loss read fewer rows than the probe does.
    assert 0 < held["pairs"] <= content["pairs"] - card["num_rows"]


def test_a_report_over_one_image_is_json(real_run, checkpoint, tmp_path):
    """As every reader knows it, which is without infinities."""
    path = tmp_path / "report.json"
    model = ["--model", str(checkpoint("llava-1.5").path), "--device", "cpu"]
    asked = ["evaluate", real_run, *model, "--weights", "float32", "--limit", "1"]
    assert main([*asked, "--output", str(path)]) == 0
    report = json.loads(path.read_text(), parse_constant=pytest.fail)
    margin = report["probe"][0]["shown_margin"]
    assert (margin["low"], margin["high"], margin["images"]) == (None, None, 1)


def test_the_probe_sees_the_adapter(trained, real_run, checkpoint, tmp_path):
    reports = []
    plain = str(checkpoint("qwen2.5-vl").path)
    assert main(["merge", str(trained), str(tmp_path / "merged")]) == 0
    for number, what in enumerate(
        (["--run", str(trained)], ["--model", str(tmp_path / "merged")], ["--model", plain])
    ):
        path = tmp_path / f"{number}.json"
        asked = ["evaluate", real_run, *what, "--device", "cpu", "--weights", "float32"]
        assert main([*asked, "--no-pope", "--limit", "6", "--output", str(path)]) == 0
        reports.append(json.loads(path.read_text())["probe"][0]["shown_margin"]["value"])
    adapter, merged, base = reports
    assert adapter == pytest.approx(merged, abs=1e-3)
    assert abs(adapter - base) > 1e-2


def test_a_precomputed_reference_gives_the_same_run(trained, real_run, checkpoint, tmp_path):
    """The crop is drawn anew in every epoch, so the file holds it for every epoch."""
    model = checkpoint("qwen2.5-vl").path
    more = ("held_out=0.3", "length=4 steps", "loss.negative=counterfactual")
    command = train_command(real_run, model, tmp_path / "ref.parquet", "mdpo", *more)
    assert main(["precompute", *command[1:]]) == 0
    command = train_command(real_run, model, tmp_path / "out", "mdpo", *more)
    assert main([*command, "--reference", str(tmp_path / "ref.parquet")]) == 0
    for mine, theirs in zip(lines(tmp_path / "out"), lines(trained), strict=True):
        assert mine == pytest.approx(theirs, abs=1e-4, rel=1e-4)
    stale = train_command(real_run, checkpoint("qwen3-vl").path, tmp_path / "stale", "mdpo", *more)
    assert main([*stale, "--reference", str(tmp_path / "ref.parquet")]) == 2


def test_two_stages_as_ic_vco_has_them(real_run, checkpoint, tmp_path):
    """SFT, merge, then preferences with the merged model as their reference."""
    model = checkpoint("llava-interleave").path
    first = train_command(real_run, model, tmp_path / "sft", "sft-icvco", "length=2 steps")
    assert main(first) == 0
    assert main(["merge", str(tmp_path / "sft"), str(tmp_path / "merged")]) == 0
    second = train_command(
        real_run, tmp_path / "merged", tmp_path / "vco", "icvco", "length=2 steps"
    )
    assert main(second) == 0
    # The policy begins as its reference, the merged model: nothing is preferred yet.
    first_line = lines(tmp_path / "vco")[0]
    assert first_line["margin"] == pytest.approx(0, abs=1e-4)
    assert first_line["loss"] > 0
    merged = AutoModelForImageTextToText.from_pretrained(tmp_path / "merged")
    base = AutoModelForImageTextToText.from_pretrained(model)
    name = "model.language_model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(merged.get_parameter(name), base.get_parameter(name))
    assert any("lora_B" in key for key in result(tmp_path / "vco"))


@pytest.fixture
def known(real_run, checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return {"RUN": real_run, "MODEL": str(checkpoint("llava-1.5").path)}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "RUN", "--model", "M", "--output", "O"], "--preset"),
        (["train", "RUN", "--model", "M", "--output", "s3://x", "--preset", "dpo"], "is a URL"),
        (["train", "RUN", "--model", "M", "--output", "O", "--preset", "dpo", "--set", "x"], "key"),
        (["train", "nowhere", "--model", "MODEL", "--output", "O", "--preset", "dpo"], "nowhere"),
        (["train", "RUN", "--model", "./gone", "--output", "O", "--preset", "dpo"], "./gone"),
        (["evaluate", "RUN", "--model", "MODEL", "--held-out"], "needs --run"),
        (["merge", "nowhere", "O"], "no trained weights"),
        (["export-eval", "nowhere", "O"], "config.json is missing"),
    ],
)
def test_bad_usage_is_one_line_and_status_2(arguments, said, known, capsys):
    more = ["--set", "machine.device=cpu"] if arguments[0] == "train" else []
    assert main([*(known.get(a, a) for a in arguments), *more]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
    assert line.startswith("nearmiss: ")
    assert said in line


def test_arguments_are_checked_at_once(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["train", "run", "--mod", "x"])
    assert caught.value.code == 2
    assert "nearmiss: " in capsys.readouterr().err


def test_trouble_is_status_1(real_run, checkpoint, tmp_path, capsys):
    """A checkpoint that was damaged."""
    command = train_command(
        real_run,
        checkpoint("llava-1.5").path,
        tmp_path / "out",
        "dpo",
        "length=2 steps",
        "loss.negative=counterfactual",
    )
    assert main(command) == 0
    folder = tmp_path / "out" / "checkpoints" / "step-000002"
    assert load_file(folder / "optimizer.safetensors")
    (folder / "position.json").write_text("{")
    (tmp_path / "out" / "final").rename(tmp_path / "aside")
    assert main(command) == 1
    assert "remove that folder" in capsys.readouterr().err
