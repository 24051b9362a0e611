"""The command as a user types it: exit status, standard output, standard error."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.__main__ import TRAINING
from pipeline.cli.parser import make_parser
from pipeline.commands import COMMANDS
from pipeline.demo.scenes import write_scenes
from trainer.commands import COMMANDS as TRAINS

ROOT = Path(__file__).parents[2]
SCRIPT = Path(sys.executable).with_name("nearmiss")


def call(*args: object, program: list[str] | None = None, **environment: str):
    """Run the command to its end."""
    return subprocess.run(
        [*(program or [sys.executable, "-m", "pipeline"]), *map(str, args)],
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
        # The script is to run this checkout's code, wherever it was installed from.
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        cwd=ROOT,
    )


def refused(result, *words: str, status: int = 2) -> None:
    """It ended with this status and one line that says all these words."""
    assert result.returncode == status, result.stderr
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("nearmiss: ")
    for word in words:
        assert word in lines[0], lines[0]


@pytest.fixture(scope="module")
def seeds(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("input")
    write_scenes(folder, 10, side=96)
    return folder / "seeds.jsonl"


@pytest.fixture(scope="module")
def finished(seeds, tmp_path_factory) -> Path:
    """A complete run of two shards."""
    output = tmp_path_factory.mktemp("runs") / "run"
    result = call(
        "run", "removal-cpu", "--input", seeds, "--output", output, "--local",
        "--set", "shard_size=5",
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""
    return output


def test_a_run_damaged_beyond_repair(finished, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    for file in (copy / "seeds").iterdir():
        file.write_bytes(b"no rows")
    refused(call("status", copy), "failed: ", "Parquet", status=1)


@pytest.fixture(scope="module")
def facts(finished) -> dict[str, object]:
    return json.loads(call("status", finished, "--json").stdout)


@pytest.mark.parametrize(
    ("program", "prog"),
    [
        ([str(SCRIPT)], "nearmiss"),
        ([sys.executable, "-m", "pipeline"], "python -m pipeline"),
        ([sys.executable, "-m", "trainer"], "python -m trainer"),
    ],
    ids=lambda x: x if isinstance(x, str) else None,
)
def test_every_door_opens_to_all_commands(program, prog):
    whole = call("--help", program=program)
    assert (whole.returncode, whole.stderr) == (0, "")
    assert whole.stdout.startswith(f"usage: {prog} [--help]")
    assert "0 complete, 1 failed, 2 bad usage or input, 3 incomplete" in whole.stdout
    assert re.findall(r"^([A-Z].*):$", whole.stdout, re.MULTILINE)[:4] == [
        "Make pairs", "Look at a run", "Publish pairs", "Train on pairs",
    ]  # fmt: skip
    one = call("train", "--help", program=program)
    assert one.stdout.startswith(f"usage: {prog} train ")
    refused(call("walk", program=program), "unknown command 'walk'", f"see {prog} --help")


def test_every_command_of_the_help_is_there_and_no_other():
    lines = re.findall(r"^  ([a-z-]+) +[a-z]", str(make_parser().description), re.MULTILINE)
    assert set(lines) == set(COMMANDS) | set(TRAINING)
    assert set(TRAINS) == TRAINING


@pytest.mark.parametrize(
    "args", [["presets"], ["settings", "train"], ["merge", "run", "folder"]], ids=lambda a: a[0]
)
def test_training_without_its_packages(args):
    code = (
        "import sys; sys.modules['torch'] = None; from pipeline.__main__ import main; "
        f"sys.exit(main({args}))"
    )
    refused(
        call(program=[sys.executable, "-c", code]),
        f"{args[0]} needs the package torch",
        "nearmiss[train]",
    )


def test_the_version():
    assert re.fullmatch(r"nearmiss \d+\.\d+\.\d+\S*\n", call("--version").stdout)


@pytest.mark.parametrize("args", [["--help"], ["run", "crop"], ["trian"], ["train", "--help"]])
@pytest.mark.parametrize("door", ["pipeline", "trainer"])
def test_help_and_slips_answer_at_once(args, door):
    """`-X importtime` lists every module that was imported."""
    result = call(*args, program=[sys.executable, "-X", "importtime", "-m", door])
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert "pipeline.cli.parser" in imported
    assert not imported & {"numpy", "pyarrow", "yaml", "pydantic", "pipeline.run", "torch"}


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ([], "COMMAND"),
        (["statsu"], "did you mean status?"),
        (["run"], "RECIPE"),
        (["run", "crop"], "--input"),
        (["run", "crop", "--input", "x"], "--output"),
        (["run", "crop", "--input", "x", "--output", "y", "--limit", "0"], "not a positive number"),
        (["run", "crop", "--input", "x", "--output", "y", "--limit", "few"], "few"),
        (["run", "crop", "--input", "x", "--output", "y", "--sed", "1"], "--sed"),
        (["run", "crop", "--input", "x", "--output", "y", "--se", "1"], "--se"),
        (["status"], "RUN"),
        (["show", "x"], "ID"),
    ],
)
def test_a_slip_in_the_arguments(args, said):
    refused(call(*args), said, "--help")


def test_a_finished_run_on_the_terminal(finished):
    result = call("status", finished)
    assert (result.returncode, result.stderr) == (0, "")
    first, second = result.stdout.splitlines()[:2]
    assert first.startswith("removal-cpu: complete, 10 of 10 seeds, 2 of 2 shards, ")
    assert second.startswith("  removal-cpu: ")
    rows = [line.split() for line in result.stdout.splitlines()]
    assert ["recipe", "stage", "in", "out", "dropped", "ms", "each", "busy", "reasons"] in rows
    (loader,) = [row for row in rows if "loader" in row]
    assert loader[:5] == ["removal-cpu", "loader", "10", "10", "0"]
    assert 0 < int(loader[6].removesuffix("%")) < 100


def test_status_as_json(finished, facts):
    assert facts["complete"] is True
    assert (facts["num_seeds"], facts["num_seeds_done"]) == (10, 10)
    assert (facts["num_shards"], facts["num_shards_done"]) == (2, 2)
    assert facts["num_pairs"] == sum(facts["pairs"].values()) > 0
    assert facts["num_drops"] == sum(facts["drops"]["removal-cpu"].values())
    assert set(facts["pairs"]) == {"removal-cpu"}
    assert [stage["stage"] for stage in facts["stages"]][:2] == ["loader", "annotated_regions"]
    assert facts["stages"][0]["idle_s"] > 0


def test_the_console_script_is_the_same_command(finished, facts):
    result = call("status", finished, "--json", program=[str(SCRIPT)])
    assert result.returncode == 0
    assert json.loads(result.stdout) == facts


def test_an_incomplete_run(finished, seeds, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    (copy / "parts" / "part-00001.parquet").unlink()
    result = call("status", copy, "--json")
    assert result.returncode == 3
    assert result.stderr == ""
    facts = json.loads(result.stdout)
    assert facts["complete"] is False
    assert (facts["num_seeds"], facts["num_seeds_done"]) == (10, 5)
    assert (facts["num_shards"], facts["num_shards_done"]) == (2, 1)
    text = call("status", copy)
    assert text.returncode == 3
    assert text.stdout.startswith("removal-cpu: incomplete, 5 of 10 seeds, 1 of 2 shards, ")
    # The same command again does what is missing, and nothing else.
    kept = (copy / "parts" / "part-00000.parquet").stat().st_mtime_ns
    again = call(
        "run", "removal-cpu", "--input", seeds, "--output", copy, "--local",
        "--set", "shard_size=5",
    )  # fmt: skip
    assert again.returncode == 0
    assert "5 seeds in 1 of 2 shards to do" in again.stderr
    assert (copy / "parts" / "part-00000.parquet").stat().st_mtime_ns == kept
    assert call("status", copy).returncode == 0


def test_a_run_of_which_only_the_data_files_are_missing(finished, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(finished, copy)
    shutil.rmtree(copy / "data")
    assert call("status", copy).returncode == 3


def test_status_while_nothing_is_done_yet(tmp_path):
    refused(call("status", tmp_path), "is not a run directory", "run.json")
    refused(call("status", tmp_path / "none"), "is not a run directory")
    refused(call("report", tmp_path), "is not a run directory")
    refused(call("show", tmp_path, "a"), "is not a run directory")
    assert not (tmp_path / "none").exists()
    (tmp_path / "run.json").write_text("{")
    refused(call("status", tmp_path), "run.json is damaged")
    (tmp_path / "run.json").write_text('{"a": 1, "identity": {}}')
    refused(call("status", tmp_path), "run.json", "another version")


def test_plan(seeds):
    result = call("plan", "demo", "--input", seeds, "--set", "shard_size=4", "--limit", "9")
    assert (result.returncode, result.stderr) == (0, "")
    assert "9 rows, 3 shards of 4" in result.stdout
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["segmenter", "Grounded", "->", "Segmented", "group", "0"] in lines
    assert ["cropper", "Seed", "->", "Candidate", "group", "0"] in lines
    assert "1 to as many as the CPUs allow actors, each 1 CPU, 0 GPU (cpu)" in result.stdout


def test_plan_of_several_groups(seeds, tmp_path):
    placement = tmp_path / "two.yaml"
    placement.write_text(
        "name: two\ngroups:\n"
        "  - {stages: [loader, annotated_regions, segmenter], max_actors: 3}\n"
        "  - {stages: rest, device: cuda, num_gpus: 0.5}\n"
    )
    result = call("plan", "removal-cpu", "--input", seeds, "--placement", placement)
    assert result.returncode == 0
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["segmenter", "Grounded", "->", "Segmented", "group", "0"] in lines
    assert ["inpainter", "Segmented", "->", "Candidate", "group", "1"] in lines
    assert "group 0: 1 to 3 actors" in result.stdout
    assert "0.5 GPU (cuda)" in result.stdout


def test_plan_takes_the_arguments_of_run_and_makes_nothing(seeds, tmp_path):
    output = tmp_path / "run"
    result = call("plan", "crop", "--input", seeds, "--output", output, "--local", "--seed", "3")
    assert result.returncode == 0
    assert not output.exists()


@pytest.mark.parametrize("command", ["plan", "status", "report", "show"])
def test_what_runs_nothing_loads_no_ray(seeds, finished, facts, command):
    """`-X importtime` lists every module that was imported."""
    args = {
        "plan": ["crop", "--input", seeds],
        "status": [finished],
        "report": [finished],
        "show": [finished, "scene"],
    }[command]
    result = call(command, *args, program=[sys.executable, "-X", "importtime", "-m", "pipeline"])
    imported = {line.rpartition("|")[2].strip() for line in result.stderr.splitlines()}
    assert "pipeline.run" in imported
    assert not imported & {"ray", "torch", "datasets", "skimage"}


def pair_and_drop(run: Path) -> tuple[str, str]:
    text = (run / "data" / "train-00000-of-00001.parquet").read_bytes()
    assert text[:4] == b"PAR1"
    from schemas.files import Folder
    from schemas.shards import read_part

    rows = [r for i in (0, 1) for t in read_part(Folder.at(str(run)), i) for r in t.to_pylist()]
    pair = next(row["pair_id"] for row in rows if row["status"] == "pair")
    drop = next(row["seed_id"] for row in rows if row["status"] == "drop")
    return pair, drop


def test_show(finished, tmp_path):
    pair, dropped_seed = pair_and_drop(finished)
    whole = call("show", finished, pair)
    assert (whole.returncode, whole.stderr) == (0, "")
    assert whole.stdout.startswith(f"Pair {pair}\n")
    for title in ("Prompt", "Chosen (true", "Counterfactual (true", "Scores", "Made by"):
        assert f"\n{title}" in whole.stdout
    assert call("show", finished, pair[:10]).stdout == whole.stdout
    seed = call("show", finished, dropped_seed)
    assert seed.returncode == 0
    assert "Drop: " in seed.stdout
    assert dropped_seed in seed.stdout
    images = call("show", finished, pair, "--images-to", tmp_path / "images")
    assert images.returncode == 0
    assert len(list((tmp_path / "images").iterdir())) == 2


def test_show_of_an_unknown_id(finished):
    refused(call("show", finished, "zzz"), "no pair or seed", "'zzz'")
    refused(call("show", finished, "scene"), "'scene'", "beginning of", "give more of it")
    refused(call("show", finished, ""), "no id given")


def test_report(finished):
    page = finished / "report.html"
    before = page.read_text()
    page.unlink()
    result = call("report", finished)
    assert (result.returncode, result.stderr) == (0, "")
    assert Path(result.stdout.strip()) == page
    assert page.read_text() == before


def test_a_run_that_fails(seeds, tmp_path):
    """A stage that fails on nearly every row: the run stops, with the reason in one line."""
    placement = tmp_path / "strict.yaml"
    placement.write_text("name: strict\nmin_errors: 1\nmax_error_share: 0.1\n")
    lines = [json.loads(line) for line in seeds.read_text().splitlines()]
    for line in lines:
        # It is there, and reading it is an I/O error: trouble, not the row's fault.
        line["image"] = "/proc/self/mem"
    broken = tmp_path / "broken.jsonl"
    broken.write_text("\n".join(map(json.dumps, lines)))
    args = ("run", "crop", "--input", broken, "--output", tmp_path / "run", "--local")
    result = call(*args, "--placement", placement, "--set", "shard_size=2")
    assert result.returncode == 1, result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    last = result.stderr.splitlines()[-1]
    assert last.startswith("nearmiss: failed: ErrorShareError: stage loader of recipe crop failed")
    assert call("status", tmp_path / "run").returncode == 3


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_on_ray_says_only_what_is_ours(seeds, tmp_path):
    output = tmp_path / "run"
    args = ("run", "crop", "--input", seeds, "--output", output, "--set", "shard_size=5")
    result = call(*args, RAY_DEDUP_LOGS="0")
    assert result.returncode == 0, result.stderr
    assert result.stdout == ""
    said = [
        rf"scanning {seeds}",
        r"10 seeds in 2 of 2 shards to do, on Ray",
        r"10/10 seeds, 2/2 shards, 10 pairs, 0 drops, [0-9.]+ seeds/s, ETA 0:00",
        rf"10 pairs from 10 seeds in 1 files: {output}",
    ]
    # A line for every minute that it takes before the last.
    said.insert(2, r"[0-9]+/10 seeds, .*")
    lines = [rf"[0-9]{{2}}:[0-9]{{2}}:[0-9]{{2}} INFO {line}\n" for line in said]
    lines[2] = f"(?:{lines[2]})*"
    assert re.fullmatch("".join(lines), result.stderr), result.stderr
    assert call("status", output).returncode == 0


@pytest.mark.parametrize(
    "engine",
    ["--local", pytest.param("--limit=10", marks=[pytest.mark.ray, pytest.mark.slow], id="ray")],
)
def test_a_model_that_is_missing_ends_a_run_with_one_line(seeds, tmp_path, engine):
    detail = f"embedder.detail={{name: dinov2, model: {tmp_path}/none}}"
    args = ("run", "crop", "--input", seeds, "--output", tmp_path / "run", "--set", detail)
    result = call(*args, engine, RAY_DEDUP_LOGS="0")
    assert result.returncode == 2, result.stderr
    *before, last = result.stderr.splitlines()
    assert last.startswith(
        f"nearmiss: stage embedder cannot be opened: no model at {tmp_path}/none; give an existing"
    )
    # Scanning, what there is to do, and the progress of every minute that it takes.
    assert {line.split()[1] for line in before} == {"INFO"}, result.stderr
