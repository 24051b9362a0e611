"""One process reads a model and the others get it: the same weights, no file of them opened."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.trainer.training import settings

TUNED = {"adapters": "dpo", "whole": "svco"}
CASES = [
    # Tied words; a table of positions that is no weight; layers for early features.
    *[("internvl", tuned, shard) for tuned in TUNED for shard in (True, False)],
    ("llava-1.5", "adapters", True),
    ("qwen3-vl", "whole", True),
]
ROOT = Path(__file__).parents[3]


def main(rank: int, folder: str, out: str) -> None:
    """One of two processes."""
    from trainer.errors import UsageError
    from trainer.model import policy as policy_module
    from trainer.model.broadcast import read_once
    from trainer.model.policy import frozen_module, load_model, make_policy
    from trainer.model.processes import Processes, leave
    from trainer.model.weights import gather_weights

    processes = Processes.start("cpu")
    assert (processes.rank, processes.world) == (rank, 2)
    wrap, held = policy_module.wrap, []

    def noted(module, *given, **more):
        held.append(sum(p.numel() for p in module.parameters() if p.device.type != "meta"))
        return wrap(module, *given, **more)

    policy_module.wrap = noted
    found = []
    for family, tuned, shard in CASES:
        wanted = settings(TUNED[tuned], f"machine.shard={str(shard).lower()}", "weights=float32")
        model = f"{folder}/{family}-{rank}"
        made = make_policy(model, None, wanted, processes, None)

        def read(whole, model=model):
            return load_model(model, None, weights="float32", attention="sdpa", read=whole)

        second = frozen_module(read_once(read, processes), wanted, processes)
        buffers = {name: x.clone() for name, x in made.model.named_buffers()}
        tied = len([*made.model.parameters()]) < len(made.model.state_dict()) - sum(
            name in made.model.state_dict() for name, _ in made.model.named_buffers()
        )
        weights = made.model.state_dict(keep_vars=True)
        weights = {
            n: getattr(x, "full_tensor", lambda x=x: x)().detach() for n, x in weights.items()
        }
        reference = gather_weights(second, keep=True)
        found.append({"weights": weights, "buffers": buffers, "second": reference, "tied": tied})
    try:
        make_policy(f"{folder}/nowhere", None, wanted, processes, None)
    except UsageError as error:
        refused = str(error)
    torch.save((found, held, refused), out)
    leave()


@pytest.fixture(scope="module")
def made(checkpoint, tmp_path_factory):
    """What both processes made. The second one's folders hold no weights, so it reads none."""
    folder = tmp_path_factory.mktemp("spread")
    for family in {family for family, _, _ in CASES}:
        source = checkpoint(family).path
        shutil.copytree(source, folder / f"{family}-0")
        shutil.copytree(
            source, folder / f"{family}-1", ignore=shutil.ignore_patterns("*.safetens*")
        )
        assert not [*(folder / f"{family}-1").glob("*.safetensors*")]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    common = {"OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    common |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    files = [folder / f"{rank}.pt" for rank in range(2)]
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", __name__, json.dumps([rank, str(folder), str(file)])],
            env={**os.environ, **common, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=ROOT,
        )
        for rank, file in enumerate(files)
    ]
    try:
        assert [process.wait(timeout=500) for process in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    return [torch.load(file) for file in files]


@pytest.mark.parametrize("number", range(len(CASES)), ids=["-".join(map(str, c)) for c in CASES])
def test_all_processes_have_what_the_first_one_read(made, checkpoint, number):
    family, tuned, _ = CASES[number]
    stored = load_file(checkpoint(family).path / "model.safetensors")
    alone = checkpoint(family).model()
    first, second = (found[number] for found, _, _ in made)
    for part in ("weights", "buffers", "second"):
        assert first[part].keys() == second[part].keys()
        for name, tensor in first[part].items():
            assert torch.equal(tensor, second[part][name]), name
            assert tensor.dtype == second[part][name].dtype
    for which in (first, second):
        # Names of the wrapped modules end in those of the file.
        for part in ("weights", "second"):
            plain = {n.replace(".base_layer", ""): x for n, x in which[part].items()}
            for name, tensor in alone.state_dict().items():
                (there,) = (x for n, x in plain.items() if n.endswith(f".{name}") or n == name)
                assert torch.equal(there, tensor), name
        for name, tensor in alone.named_buffers():
            (there,) = (x for n, x in which["buffers"].items() if n.endswith(name))
            assert torch.equal(there, tensor), name
        assert which["tied"] is (family == "internvl")
    assert len(stored) <= len(alone.state_dict())
    assert any("lora" in name for name in first["weights"]) is (tuned == "adapters")


def test_the_other_process_holds_no_weight_before_it_is_sent_some(made):
    assert all(number > 10_000 for number in made[0][1])
    assert made[1][1] == [0] * len(made[1][1])


def test_a_model_that_cannot_be_read_is_refused_on_all(made):
    assert made[0][2] == made[1][2]
    assert "nowhere-0" not in made[0][2]
    assert "nowhere cannot be loaded" in made[1][2]


if __name__ == "__main__":
    main(*json.loads(sys.argv[1]))
