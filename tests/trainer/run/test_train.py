"""Runs: resumed ones end as uninterrupted ones do, to the bit, whatever stopped them."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fakes.pairs import a_pair, save
from tests.trainer.training import Watch, lines, overrides, result, settings, stop_after
from trainer.__main__ import main
from trainer.errors import CheckpointFileError, NonFiniteLossError, UsageError
from trainer.run.checkpoints import Checkpoints
from trainer.run.stop import StopRequest, by_signal
from trainer.run.train import Request, train

ROOT = Path(__file__).parents[3]
NUM_PAIRS = 7
"""With 3 rows a step: 3 steps an epoch, the last one of a single row."""


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return save(tmp_path_factory.mktemp("run"), [a_pair(n) for n in range(NUM_PAIRS)])


@pytest.fixture
def request_for(run, checkpoint, tmp_path):
    def make(family, preset, *more, out="out"):
        model = str(checkpoint(family).path)
        return Request((run,), model, settings(preset, *more), tmp_path / out)

    return make


def same(one, other):
    """Metrics, to the last digit, and weights, to the last bit."""
    assert lines(one) == lines(other)
    first, second = result(one), result(other)
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


@pytest.mark.parametrize(
    ("family", "preset", "more"),
    [
        # Orders of images are drawn anew every epoch; a window of metrics spans the interruption.
        ("qwen2.5-vl", "icvco", ["keep.log_every=4", "machine.loader_workers=1"]),
        # Dropout draws from the global generators.
        ("llava-1.5", "sft-icvco", ["tune.dropout=0.3"]),
        # All weights, tower and projector, a second model as reference, decay, a crop.
        ("llava-onevision", "symmpo", ["loss.name=mdpo"]),
    ],
)
def test_an_interrupted_run_ends_as_an_uninterrupted_one(request_for, family, preset, more):
    through = request_for(family, preset, *more, out="through")
    watch = Watch()
    assert train(through, watch).complete
    assert watch.saves == ["step-000002", "step-000004", "step-000006"]
    assert watch.losses[1] != watch.losses[6]

    stopped = replace(through, out=through.out.with_name("stopped"))
    for steps, done in ((1, 1), (2, 3)):
        outcome = train(stopped, Watch(), stop_after(steps))
        assert (outcome.step, outcome.complete) == (done, False)
    assert not (stopped.out / "final").exists()
    again = Watch()
    assert train(stopped, again).complete
    assert again.begun == [3]
    assert again.losses.keys() == {4, 5, 6}
    same(through.out, stopped.out)


def test_a_killed_run_ends_as_an_uninterrupted_one(request_for):
    """SIGKILL while it works, somewhere after the first checkpoint; the command again."""
    through = request_for("qwen3-vl", "dpo", out="through")
    assert train(through, Watch()).complete
    out = through.out.with_name("killed")
    arguments = ["train", *through.shards, "--model", through.model, "--output", str(out)]
    arguments += ["--preset", "dpo"]
    arguments += [part for text in overrides("dpo") for part in ("--set", text)]
    process = subprocess.Popen([sys.executable, "-m", "trainer", *arguments], cwd=ROOT)
    checkpoints = Checkpoints(out / "checkpoints")
    while not checkpoints.steps() and process.poll() is None:
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert process.returncode == -signal.SIGKILL
    assert not (out / "final").exists()
    assert main(arguments) == 0
    same(through.out, out)


def test_a_signal_ends_the_command_with_a_checkpoint_and_status_3(request_for):
    wanted = request_for("llava-1.5", "dpo", "length=400 steps", "keep.checkpoint_every=400")
    out = wanted.out
    arguments = ["train", *wanted.shards, "--model", wanted.model, "--output", str(out)]
    arguments += ["--preset", "dpo"]
    more = ["length=400 steps", "keep.checkpoint_every=400"]
    arguments += [part for text in overrides("dpo", *more) for part in ("--set", text)]

    def terminate():
        while not (out / "metrics.jsonl").exists():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    handler = signal.getsignal(signal.SIGTERM)
    threading.Thread(target=terminate).start()
    assert main(arguments) == 3
    assert signal.getsignal(signal.SIGTERM) is handler
    (step,) = Checkpoints(out / "checkpoints").steps()
    assert 0 < step < 400
    assert lines(out)[-1]["step"] == step


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(request_for, caplog):
    through = request_for("llava-1.5", "dpo", out="through")
    assert train(through, Watch()).complete
    stopped = replace(through, out=through.out.with_name("stopped"))
    assert not train(stopped, Watch(), stop_after(5)).complete
    checkpoints = Checkpoints(stopped.out / "checkpoints")
    assert checkpoints.steps() == [4, 5]
    file = checkpoints.at(5) / "weights" / "adapter_model.safetensors"
    data = bytearray(file.read_bytes())
    data[-9] ^= 64  # a weight that becomes another number
    file.write_bytes(data)
    again = Watch()
    assert train(stopped, again).complete
    assert again.begun == [4]
    assert "step-000005 is damaged (weights/adapter_model.safetensors is not what" in caplog.text
    same(through.out, stopped.out)

    shutil.rmtree(stopped.out / "final")
    for step in checkpoints.steps():
        file = checkpoints.at(step) / "optimizer.safetensors"
        file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(CheckpointFileError, match=r"no checkpoint in .* is whole"):
        train(stopped, Watch())
    assert main(["merge", str(stopped.out), str(stopped.out / "merged")]) == 1


def test_signals_are_heard_inside_alone():
    before = signal.getsignal(signal.SIGTERM)
    with by_signal() as stop_check:
        assert stop_check() is StopRequest.GO_ON
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop_check() is StopRequest.STOP
        # A second one is not caught: it would end the process at once.
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_request_to_save_saves_and_goes_on(request_for):
    requests = iter(
        [StopRequest.GO_ON, StopRequest.GO_ON, StopRequest.SAVE, *[StopRequest.GO_ON] * 9]
    )
    watch = Watch()
    wanted = request_for("llava-1.5", "dpo", "keep.checkpoints=9")
    assert train(wanted, watch, lambda: next(requests)).complete
    assert watch.saves == ["step-000002", "step-000003", "step-000004", "step-000006"]


def test_a_full_disk_at_a_checkpoint_leaves_the_one_before(request_for):
    through = request_for("llava-1.5", "svco", out="through")
    assert train(through, Watch()).complete
    full = replace(through, out=through.out.with_name("full"))
    old = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(step):
        if step == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, old[1]))

    try:
        with pytest.raises(CheckpointFileError, match="step 4 could not be written") as caught:
            train(full, Watch(fill))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert "step-000002 is intact" in str(caught.value)
    assert Checkpoints(full.out / "checkpoints").steps() == [2]
    again = Watch()
    assert train(full, again).complete
    assert again.begun == [2]
    same(through.out, full.out)


def poisoned(checkpoint, folder):
    """A model that gives NaN for the letter "Ç", which only pairs 2 and 5 have."""
    model = checkpoint("llava-1.5")
    folder.mkdir()
    for path in model.path.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    weights = load_file(folder / "model.safetensors")
    (name,) = (n for n in weights if "embed_tokens" in n)
    for token in model.family.tokenizer("Ça", add_special_tokens=False)["input_ids"][:2]:
        if model.family.tokenizer.convert_ids_to_tokens(token).startswith("<0x"):
            weights[name][token] = float("nan")
    assert weights[name].isnan().any()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


def test_a_loss_that_is_no_number_stops_with_its_rows(request_for, checkpoint, tmp_path):
    wanted = request_for("llava-1.5", "dpo", "batch_size=7", "machine.micro_batch=3")
    bad = replace(wanted, model=poisoned(checkpoint, tmp_path / "poisoned"))
    with pytest.raises(NonFiniteLossError) as caught:
        train(bad, Watch())
    message = str(caught.value)
    assert "the loss of step 1" in message
    assert {word.strip(",.") for word in message.split() if word.startswith("pair-")} == {
        "pair-0002",
        "pair-0005",
    }
    assert not Checkpoints(bad.out / "checkpoints").steps()


def test_a_complete_run_is_not_done_again_and_another_is_refused(request_for):
    wanted = request_for("llava-1.5", "dpo", "length=1 step")
    assert train(wanted, Watch()).complete
    again = Watch()
    assert train(wanted, again).complete
    assert again.begun == []
    other = request_for("llava-1.5", "dpo", "length=1 step", "loss.beta=0.3")
    with pytest.raises(UsageError, match=r"loss\.beta was 0\.1, is 0\.3"):
        train(other, Watch())


def test_rows_that_lack_what_the_loss_needs_are_counted_first(checkpoint, tmp_path, caplog):
    pairs = [a_pair(n) for n in range(4)]
    pairs[1] = a_pair(1, rejected=None)
    pairs[2] = a_pair(2, rejected=None)
    model = str(checkpoint("llava-1.5").path)
    shards = (save(tmp_path / "run", pairs),)
    wanted = Request(shards, model, settings("dpo", "length=1 epoch"), tmp_path / "out")
    with caplog.at_level("INFO"):
        assert train(wanted, Watch()).num_steps == 1
    assert "of 4 rows 2 lack rejected; 2 are left" in caplog.text
    none = replace(wanted, shards=(save(tmp_path / "none", pairs[1:3]),), out=tmp_path / "none-out")
    with pytest.raises(UsageError, match="2 lack rejected"):
        train(none, Watch())


def test_adapters_rest_on_the_model_and_its_commit(request_for):
    wanted = replace(request_for("llava-1.5", "dpo", "length=1 step"), revision="main")
    assert train(wanted, Watch()).complete
    config = (wanted.out / "final" / "weights" / "adapter_config.json").read_text()
    assert '"revision": "main"' in config
    assert wanted.model in config


def test_a_checkpoint_of_all_weights_is_a_model_that_loads(request_for, tmp_path):
    """A run that was stopped: merged, and the merged model measured as the run itself is."""
    wanted = request_for("llava-1.5", "svco")
    assert not train(wanted, Watch(), stop_after(2)).complete
    assert main(["merge", str(wanted.out), str(tmp_path / "merged")]) == 0
    reports = []
    for what in (["--run", str(wanted.out)], ["--model", str(tmp_path / "merged")]):
        path = tmp_path / f"{len(reports)}.json"
        asked = ["evaluate", *wanted.shards, *what, "--device", "cpu", "--weights", "float32"]
        assert main([*asked, "--no-pope", "--output", str(path)]) == 0
        reports.append(json.loads(path.read_text())["probe"])
    assert reports[0] == reports[1]
    assert (tmp_path / "merged" / "chat_template.jinja").is_file()
