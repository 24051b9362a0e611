from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class Checkpoint:
    """A tiny model as a user has one, and what the trainer makes of it."""

    path: Path
    family: Any

    def model(self, attention: str = "sdpa") -> Any:
        """A fresh copy of the weights."""
        from transformers import AutoModelForImageTextToText

        return AutoModelForImageTextToText.from_pretrained(
            self.path, attn_implementation=attention, dtype="float32"
        ).eval()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Checkpoint]:
    """Checkpoints by family, each made once."""
    # Loaded late: most tests of this folder need no model.
    from fakes.tiny.vlm import save_vlm
    from trainer.families import load_family

    made: dict[str, Checkpoint] = {}

    def get(name: str) -> Checkpoint:
        if name not in made:
            path = save_vlm(tmp_path_factory.mktemp(name), name)
            made[name] = Checkpoint(path, load_family(str(path)))
        return made[name]

    return get


@pytest.fixture(scope="session")
def real_run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A finished run of the pipeline with pairs of several kinds, made by the real recipes."""
    from tests.trainer.runs import make_run

    return str(make_run(tmp_path_factory.mktemp("real-run"), "demo", 8))
