"""Training on what the recipes with chat models emit: whole runs over scenes, then two steps.

The recipes on CPU are trained on throughout (`real_run`); these are the others.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import pyarrow as pa
import pytest

from fakes.chat_server import ChatServer
from fakes.pair_runs import EMBEDDERS, Witness, shade, truth_of
from fakes.scene_runs import Trial
from pipeline.__main__ import main as pipeline
from pipeline.demo.scenes import write_scenes
from schemas.files import Folder
from schemas.shards import read_pairs
from tests.trainer.runs import make_run
from tests.trainer.training import Watch, lines, settings
from trainer.run.train import Request, train

NUM = 10


def pairs_of(run: Path) -> list[dict]:
    return pa.concat_tables(list(read_pairs(Folder.at(str(run))))).to_pylist()


def with_chat(command: list[str], stages: tuple[str, ...], truth: dict[bytes, str]) -> None:
    """A run of the pipeline whose chat models all know what the images show."""
    with ChatServer(Witness(truth)) as server:
        sets = [f"{stage}.chat.base_url={server.url}" for stage in stages]
        sets += [*EMBEDDERS, "double_threshold.limits={}"]
        more = [part for text in sets for part in ("--set", text)]
        assert pipeline(["run", *command, "--local", *more]) == 0


def edit(folder: Path) -> Path:
    return Trial(folder, num=NUM).run().run_dir


def synthesis(folder: Path) -> Path:
    return Trial(folder, "synthesis", num=NUM).run().run_dir


def mvc(folder: Path) -> Path:
    """Pairs of our own making, as somebody brings them."""
    brought = make_run(folder / "brought", "recolor-cpu", NUM, side=128)
    command = ["mvc", "--input", str(brought / "data"), "--output", str(folder / "run")]
    stages = ("questioner", "rewriter", "chat_verifier")
    with_chat(command, stages, truth_of(pairs_of(brought)))
    return folder / "run"


def retrieval(folder: Path) -> Path:
    write_scenes(folder / "input", NUM, side=96)
    seeds = folder / "input" / "seeds.jsonl"
    rows = [json.loads(line) for line in seeds.read_text("utf-8").splitlines()]
    truth = {shade((seeds.parent / row["image"]).read_bytes()): row["chosen"] for row in rows}
    command = ["retrieval", "--input", str(seeds), "--output", str(folder / "run")]
    for text in ("embedder=color_layout", "min_similarity=0.3", "validation=0"):
        command += ["--set", f"pairing.{text}"]
    with_chat(command, ("answerer", "chat_verifier"), truth)
    return folder / "run"


@pytest.mark.parametrize(
    ("recipe", "preset", "family"),
    [
        (edit, "icvco", "llava-interleave"),
        (synthesis, "ovip", "llava-1.5"),
        (mvc, "svco", "qwen3-vl"),
        (retrieval, "symmpo", "llava-onevision"),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_what_a_recipe_emits_is_trained_on(recipe, preset, family, checkpoint, tmp_path):
    run = recipe(tmp_path)
    pairs = pairs_of(run)
    assert len(pairs) >= 3
    model = str(checkpoint(family).path)
    request = Request((str(run),), model, settings(preset, "length=2 steps"), tmp_path / "out")
    watch = Watch()
    assert train(request, watch).complete
    card = json.loads((tmp_path / "out" / "run.json").read_text("utf-8"))
    assert card["num_rows"] == len(pairs), "no row lacks what its own paper's loss needs"
    assert watch.losses.keys() == {1, 2}
    assert all(math.isfinite(loss) and loss > 0 for loss in watch.losses.values())
    # What the answers say differs, so the loss has something to learn from.
    assert lines(tmp_path / "out")[-1]["gradient_norm"] > 0
