"""Log-probs, gradients and image encodings are those of one process where weights are split.

Run as a script it is one of the processes.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import torch

from fakes.pairs import a_row

SHARES = ((0, 1, 2), (3,))
"""Rows of each process: one has more passes and more images to encode than the other."""
PASS_TOKENS = 150


def step(module, policy, build, rows, scale):
    """Table, reference table, gradients of a step's share, and the tower's calls by forward."""
    from trainer.families import family_of
    from trainer.model.reference import adapters_off
    from trainer.model.token_kl import token_kl

    batch = build(rows, 0)
    inner = policy.get_base_model()
    called = []
    tower = inner.model.get_submodule(family_of(inner.config).vision_tower)
    tower.register_forward_hook(lambda *_: called.append(None))
    table = module(batch)
    calls = [len(called)]
    reference = adapters_off(module, policy)(batch)
    calls.append(len(called) - calls[0])
    table = {**table, **token_kl(batch)}
    sum((v * 0.01).tanh().sum() for v in table.values()).mul(scale).backward()
    gradients = {n: p.grad for n, p in policy.named_parameters() if p.grad is not None}
    return table, reference, gradients, calls


def policy_of(model: str):
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText

    from trainer.families import family_of

    loaded = AutoModelForImageTextToText.from_pretrained(model, dtype=torch.float32)
    loaded.gradient_checkpointing_enable({"use_reentrant": False})
    torch.manual_seed(0)
    targets = family_of(loaded.config).adapter_targets()
    config = LoraConfig(r=2, target_modules=targets, init_lora_weights=False)
    return get_peft_model(loaded, config).train()


def builder_of(model: str):
    from trainer.data.batches import BatchBuilder
    from trainer.families import load_family
    from trainer.losses import SVCO, CHiP

    return BatchBuilder(load_family(model), SVCO().views | CHiP().views, 3)


def main(model: str, rank: int, port: int, out: str) -> None:
    """One of two processes."""
    import torch.distributed as dist

    from trainer.model.logprobs import ViewLogProbs
    from trainer.model.processes import Processes
    from trainer.model.wrapped import wrap

    dist.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=len(SHARES)
    )
    policy = policy_of(model)
    module = wrap(
        ViewLogProbs(policy, pass_tokens=PASS_TOKENS),
        Processes(rank, len(SHARES), torch.device("cpu")),
        shard=True,
        layers=policy.get_base_model()._no_split_modules,
        compute=torch.float32,
        may_be_unused=False,
    )
    rows = [a_row(n) for n in SHARES[rank]]
    # Gradients are averaged over processes; times their number it is the sum.
    parts = step(module, policy, builder_of(model), rows, float(len(SHARES)))
    table, reference, gradients, calls = parts
    content = {
        "table": {v.key: x.detach() for v, x in table.items()},
        "reference": {v.key: x for v, x in reference.items()},
        "gradients": {n: g.full_tensor() for n, g in gradients.items()},
        "calls": calls,
    }
    torch.save(content, out)
    dist.destroy_process_group()


def test_split_over_two_processes_is_one(checkpoint, tmp_path):
    from trainer.model.logprobs import ViewLogProbs, _passes

    made = checkpoint("qwen3-vl")
    build = builder_of(str(made.path))
    passes = [len(_passes(build([a_row(n) for n in s], 0).packed, PASS_TOKENS)) for s in SHARES]
    assert passes[0] > passes[1], "or the test would show nothing"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    files = [tmp_path / f"{rank}.pt" for rank in range(len(SHARES))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", __name__, str(made.path), str(rank), str(port), str(file)],
            env=environment,
            cwd=Path(__file__).parents[3],
        )
        for rank, file in enumerate(files)
    ]
    try:
        policy = policy_of(str(made.path))
        module = ViewLogProbs(policy)
        rows = [a_row(n) for share in SHARES for n in share]
        table, reference, gradients, calls = step(module, policy, build, rows, 1.0)
        assert [p.wait(timeout=500) for p in processes] == [0, 0]
    finally:
        for process in processes:
            process.kill()
    parts = [torch.load(file) for file in files]
    # The tower is frozen: the reference's forward finds the images encoded by the policy's.
    assert [part["calls"] for part in parts] == [calls, calls] == [[1, 0], [1, 0]]
    for name, wanted in (("table", table), ("reference", reference)):
        for view, values in wanted.items():
            found = torch.cat([part[name][view.key] for part in parts])
            torch.testing.assert_close(found, values.detach(), rtol=0, atol=3e-4)
    assert parts[0]["gradients"].keys() == gradients.keys()
    for parameter, gradient in gradients.items():
        for part in parts:
            torch.testing.assert_close(part["gradients"][parameter], gradient, rtol=0, atol=1e-4)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
