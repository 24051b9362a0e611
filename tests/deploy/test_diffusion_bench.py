"""The diffusion benchmark: what changes weights is measured on weights that nothing changed yet."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np

BENCH = Path(__file__).parents[2] / "deploy" / "bench"


def test_each_quantised_way_starts_from_the_same_weights(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCH))
    bench = importlib.import_module("diffusion")

    def coarser(transformer, weights: str) -> None:
        """As torchao's (which runs on a GPU, or is not installed): in place, without a way back."""
        assert weights == "int8"
        for parameter in transformer.parameters():
            parameter.mul_(0.5)

    monkeypatch.setattr("stages.backends.diffusion.pipeline._quantise", coarser)
    ones = (f"--{name}=1" for name in ("steps", "runs", "requests", "candidates", "rows"))
    args = bench.parse([*ones, "--exact", "--weights", "int8", "int8"])
    found = list(bench.ways(args, bench.fresh_pipeline(args), bench.load(args)))
    *exact, (first, once), (second, again) = found
    assert first == second == "int8 weights*"
    assert not np.array_equal(once.images[0], exact[-1][1].images[0])
    assert np.array_equal(once.images[0], again.images[0])
