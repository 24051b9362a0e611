"""A stage or backend from a user's own file: as the README prints it, in every kind of worker."""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
import textwrap
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.__main__ import main
from pipeline.demo.scenes import write_scenes
from pipeline.errors import UsageError
from pipeline.recipes.build import load_recipe
from pipeline.recipes.plugins import stages_with
from schemas.files import Folder
from schemas.shards import read_pairs

ROOT = Path(__file__).parents[3]
README = (ROOT / "pipeline" / "recipes" / "README.md").read_text("utf-8")
(EXAMPLE,) = re.findall(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)

RECIPE = """
name: gray
about: The example of the README.
stages: {loader: {}, grayscaler: {}, embedder: {}, locality_check: {}, masker: {}}
"""

FILL = """
from dataclasses import dataclass
from typing import Literal
from stages.backends.inpaint.classical import TeleaFill

@dataclass(frozen=True)
class Wide(TeleaFill):
    name: Literal["wide"] = "wide"
    \"\"\"Selects this backend.\"\"\"

BACKENDS = {"inpainter.backend": [Wide]}
"""


@pytest.fixture
def example(tmp_path, monkeypatch):
    """The arguments of a run of the example, in a folder of its own; and its files there."""
    monkeypatch.chdir(tmp_path)
    write_scenes(tmp_path, 6, side=96)
    Path("grayscaler.py").write_text(EXAMPLE, "utf-8")
    Path("gray.yaml").write_text(RECIPE, "utf-8")
    return ["gray.yaml", "--plugin", "grayscaler.py", "--input", "seeds.jsonl"]


def pairs(run: str) -> list[dict[str, object]]:
    return [row for table in read_pairs(Folder.at(run)) for row in table.to_pylist()]


def test_the_example_is_short():
    assert len(EXAMPLE.splitlines()) <= 40


@pytest.mark.parametrize(
    "engine", ["--local", pytest.param("", marks=[pytest.mark.ray, pytest.mark.slow], id="ray")]
)
def test_the_example_of_the_readme_runs(example, engine, capsys):
    more = [engine] if engine else []
    assert main(["run", *example, "--output", "run", *more]) == 0, capsys.readouterr().err
    rows = pairs("run")
    assert rows
    info = json.loads(Path("run/run.json").read_text())
    (content,) = info["files"].values()
    for row in rows:
        image = np.asarray(Image.open(BytesIO(row["rejected_image"]["bytes"])), int)
        assert np.ptp(image, axis=2).max() <= 6  # JPEG alone
        assert "gray" in row["counterfactual"]
        assert content in json.dumps(row["provenance"])
    # The same again, with another content of the file.
    assert main(["run", *example, "--output", "run", *more]) == 0
    Path("grayscaler.py").write_text(EXAMPLE + "# a change\n", "utf-8")
    capsys.readouterr()
    assert main(["run", *example, "--output", "run", *more]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--plugin grayscaler.py" in line
    assert content in line


def test_every_command_that_takes_a_recipe_knows_it(example, capsys):
    assert main(["plan", *example]) == 0
    assert main(["doctor", *example]) == 0
    assert main(["models", "list", *example[:3]]) == 0
    assert main(["recipes", *example[:3]]) == 0
    capsys.readouterr()
    assert main(["settings", "grayscaler", "--plugin", "grayscaler.py"]) == 0
    said = capsys.readouterr().out
    assert "Takes Seed, gives Candidate." in said
    assert "keep: number; default 0.0\n    Share of the colour that stays" in said


def test_its_content_decides_the_digest_its_name_does_not(tmp_path):
    digests = []
    for name, content in (("a", EXAMPLE), ("b", EXAMPLE), ("c", EXAMPLE + "# another\n")):
        (tmp_path / f"{name}.py").write_text(content, "utf-8")
        (tmp_path / "gray.yaml").write_text(RECIPE, "utf-8")
        stages = stages_with([str(tmp_path / f"{name}.py")])
        digests.append(load_recipe(str(tmp_path / "gray.yaml"), stages=stages).digest)
        # A recipe that uses nothing of it is what it was.
        assert load_recipe("crop", stages=stages).digest == load_recipe("crop").digest
    assert digests[0] == digests[1] != digests[2]


def test_a_backend_arrives_where_its_file_is_not(tmp_path):
    file = tmp_path / "fill.py"
    file.write_text(FILL, "utf-8")
    book = load_recipe("removal-cpu", ["inpainter.backend=wide"], stages_with([str(file)]))
    file.unlink()
    (link,) = (link for link in book.recipes[0].links if link.name == "inpainter")
    code = "import pickle, sys; print(pickle.load(sys.stdin.buffer).stage.backend)"
    there = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps(link), capture_output=True, cwd=ROOT,
        check=True,
    )  # fmt: skip
    assert there.stdout.decode().strip() == str(link.stage.backend)
    assert "Wide(" in str(link.stage.backend)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "there is no such file"),
        ("def (:\n", "line 1: invalid syntax"),
        ("import nowhere_at_all\n", "raises ModuleNotFoundError: No module named 'nowhere_at_all'"),
        ("x = 1\n", 'brings nothing; give it STAGES = {"my_stage": MyStage} or BACKENDS'),
        ("STAGES = [1]\n", "STAGES must be a mapping of names, not [1]"),
        ("STAGES = {'mine': 3}\n", "STAGES['mine'] is 3, not a class"),
        ("STAGES = {'mine': dict}\n", "(dict) is neither a Stage nor a GroupStage"),
        (EXAMPLE.replace('"grayscaler":', '"flipper":'), "there is a stage flipper already"),
        (EXAMPLE.replace('"grayscaler":', '"gray.er":'), "'gray.er' is not a name for a stage"),
        (EXAMPLE.replace("process_one", "process_two"), "(Grayscaler) lacks process_one"),
        (EXAMPLE.replace("@dataclass(frozen=True)", ""), "is not a dataclass"),
        (FILL.replace("inpainter.b", "inpanter.b"), "did you mean inpainter.backend? known are"),
        (FILL.replace('"wide"', '"telea"'), "there is a backend telea for inpainter.backend"),
    ],
)
def test_a_bad_file_is_one_line(content, said, tmp_path):
    file = tmp_path / "mine.py"
    if content is not None:
        file.write_text(textwrap.dedent(content), "utf-8")
    with pytest.raises(UsageError) as caught:
        stages_with([str(file)])
    message = str(caught.value)
    assert message.startswith(f"--plugin {file}: ")
    assert said in message
    assert "\n" not in message
