"""What is written about training fits the trainer: commands, presets, the job's machines."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml

from pipeline.cli.parser import make_parser
from trainer.settings import Source, load_settings, presets

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = ["README.md", "trainer/README.md", "deploy/README.md", "deploy/train-rayjob.yaml"]


def commands(text: str) -> list[Any]:
    """Every command of the trainer in a text, parsed; those with dots for arguments left out."""
    joined = re.sub(r"\\\n[# ]*", "", text)
    own = r"(?:python -m trainer|nearmiss(?= train| precompute| evaluate| merge| export-eval))"
    found = re.findall(own + r" (.*?)(?:`|\n|$)", joined)
    return [
        make_parser().parse_args(shlex.split(arguments, comments=True))
        for arguments in found
        if "..." not in arguments and " " in arguments
    ]


def job() -> Any:
    return yaml.safe_load((ROOT / "deploy" / "train-rayjob.yaml").read_text("utf-8"))["spec"]


@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_written_commands_are_accepted_and_their_settings_load(name):
    text = (ROOT / name).read_text("utf-8")
    found = commands(job()["entrypoint"] if name.endswith("rayjob.yaml") else text)
    assert found
    for args in found:
        if args.command in ("train", "precompute"):
            load_settings(Source(args.preset, None, args.set))


def test_the_table_of_presets_is_that_of_the_files():
    text = (ROOT / "trainer" / "README.md").read_text("utf-8")
    rows = re.findall(r"^\| `([\w-]+)` \| `(\w+)`.*$", text, re.MULTILINE)
    table = {name: loss for name, loss in rows if name in presets()}
    assert table == {name: load_settings(Source(name)).loss.name for name in presets()}
    for name in presets():
        (line,) = re.findall(rf"^\| `{name}` \| `.*$", text, re.MULTILINE)
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        settings = load_settings(Source(name))
        optimizer = settings.optimizer
        rate, decay, betas = cells[3].split(", ")
        assert float(rate) == optimizer.learning_rate
        assert float(decay) == optimizer.weight_decay
        assert [float(beta) for beta in betas.split()] == [optimizer.beta1, optimizer.beta2]
        assert cells[4].split()[-1] == optimizer.schedule
        assert float(cells[4].split()[0]) == optimizer.warmup
        assert (int(cells[5]), cells[6]) == (settings.batch_size, settings.length)
        if settings.tune.name == "lora":
            assert cells[2].startswith(f"LoRA {settings.tune.rank}/{settings.tune.alpha:.0f}")


def test_the_job_has_a_gpu_for_every_worker_and_a_mount_for_the_run():
    spec = job()
    (args,) = commands(spec["entrypoint"])
    cluster = spec["rayClusterSpec"]
    assert cluster["rayVersion"] == ray.__version__
    assert cluster["authOptions"] == {"mode": "token"}
    gpus = 0
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert container["resources"]["requests"] == container["resources"]["limits"]
        (mount,) = container["volumeMounts"]
        assert args.output.startswith(f"{mount['mountPath']}/")
        assert [mount["name"]] == [volume["name"] for volume in pod["volumes"]]
        number = int(container["resources"]["limits"].get("nvidia.com/gpu", 0))
        gpus += number * group.get("minReplicas", 1)
    assert gpus == args.ray_workers
    assert spec["backoffLimit"] > 0
