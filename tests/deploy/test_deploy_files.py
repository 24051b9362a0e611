"""The deployment files agree with the code: they load, and their commands are accepted."""

from __future__ import annotations

import json
import logging
import re
import shlex
import subprocess
import textwrap
import tomllib
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml
from ray._private.ray_constants import get_runtime_env_default_excludes
from ray._private.runtime_env import packaging as ray_packaging

from pipeline.cli.parser import make_parser
from pipeline.engine.placement import Placement, load_placement, pool_sizes, split
from pipeline.errors import UsageError
from pipeline.recipes.build import load_recipe, shipped_recipes
from pipeline.recipes.chains import make_chains
from schemas.records import SCHEMA_VERSION

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
PLACEMENTS = sorted((DEPLOY / "placements").glob("*.yaml"))
WITH_COMMANDS = [DEPLOY / name for name in ("README.md", "cluster.yaml", "rayjob.yaml")]


def read(name: str) -> Any:
    return yaml.safe_load((DEPLOY / name).read_text("utf-8"))


def commands(text: str) -> list[list[str]]:
    """The arguments of every command in a text, lines that go on joined; not those with dots."""
    joined = re.sub(r"\\\n[# ]*", "", text)
    found = re.findall(r"(?:python -m pipeline|(?<=    )nearmiss) (.*?)(?:`|\n|$)", joined)
    found = [arguments for arguments in found if "..." not in arguments]
    return [shlex.split(arguments, comments=True) for arguments in found]


def here(path: str) -> Path:
    """The file of the checkout that a path in the image or the checkout means."""
    return ROOT / path.removeprefix("/app/")


EDITORS = ["edit", "mvc", "retrieval", "synthesis"]
GPU_RECIPES = {"gpu-1": ["removal"], "gpu-8": ["removal"], "gpu-64": ["removal"],
               "gpu-8-editors": EDITORS}  # fmt: skip
MACHINES = {"gpu-1": (8, 1), "gpu-8": (64, 8), "gpu-64": (512, 64), "gpu-8-editors": (64, 8)}
"""CPUs and GPUs that the placements say they are for."""


def test_every_gpu_placement_says_for_what():
    assert set(GPU_RECIPES) == {p.stem for p in PLACEMENTS if p.stem.startswith("gpu")}


@pytest.mark.parametrize(
    ("path", "recipe"),
    [(p, r) for p in PLACEMENTS for r in GPU_RECIPES.get(p.stem, shipped_recipes())],
    ids=lambda x: x.stem if isinstance(x, Path) else x,
)
def test_every_placement_fits_its_recipes(path, recipe):
    placement = load_placement(str(path))
    assert placement.name == path.stem
    for chain in make_chains(load_recipe(recipe), 0):
        parts = split(chain, placement)
        assert tuple(link for part in parts for link in part.links) == chain.links


@pytest.mark.parametrize("name", MACHINES)
def test_gpu_placements_use_all_gpus_and_start_with_fewer(name):
    groups = load_placement(str(DEPLOY / "placements" / f"{name}.yaml")).groups
    cpus, gpus = MACHINES[name]
    sizes = pool_sizes(groups, cpus, gpus, 10_000)
    assert sum(n * g.num_gpus for n, g in zip(sizes, groups, strict=True)) == gpus
    with pytest.raises(UsageError, match="GPUs"):
        pool_sizes(groups, cpus, 0, 10_000)
    if gpus > 1:  # a machine that lost half its GPUs still starts
        pool_sizes(groups, cpus, gpus / 2, 10_000)


def test_the_laptop_placement_is_the_default():
    assert load_placement(str(DEPLOY / "placements" / "laptop.yaml")) == Placement()


@pytest.mark.parametrize("path", WITH_COMMANDS, ids=lambda p: p.name)
def test_the_written_commands_are_accepted(path):
    text = path.read_text("utf-8")
    if path.name == "rayjob.yaml":
        text = read(path.name)["spec"]["entrypoint"]
    found = commands(text)
    assert found
    for arguments in found:
        parsed = make_parser().parse_args(arguments)
        if getattr(parsed, "placement", None):
            load_placement(str(here(parsed.placement)))
        if hasattr(parsed, "recipe"):
            load_recipe(parsed.recipe)


def test_the_job_starts_with_room_for_its_placement():
    """KubeRay submits once the least number of workers is there; the run sizes its pools then."""
    spec = read("rayjob.yaml")["spec"]
    (arguments,) = commands(spec["entrypoint"])
    placement = load_placement(str(here(make_parser().parse_args(arguments).placement)))
    cluster = spec["rayClusterSpec"]
    cpus = 0.0
    for group in cluster["workerGroupSpecs"]:
        (container,) = group["template"]["spec"]["containers"]
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        cpus += group["minReplicas"] * float(container["resources"]["requests"]["cpu"])
    assert sum(pool_sizes(placement.groups, cpus, 0, most=1000)) == cpus
    assert cluster["rayVersion"] == ray.__version__
    assert cluster["authOptions"] == {"mode": "token"}
    assert spec["backoffLimit"] > 0


def test_the_launcher_takes_the_cluster_file():
    file = Path(ray.__file__).parent / "autoscaler" / "ray-schema.json"
    cluster = read("cluster.yaml")
    jsonschema.validate(cluster, json.loads(file.read_text("utf-8")))
    assert cluster["head_node_type"] in cluster["available_node_types"]
    for kind in ("head", "worker"):
        (start,) = (c for c in cluster[f"{kind}_start_ray_commands"] if "ray start" in c)
        assert "RAY_AUTH_MODE=token" in start


def test_one_image_for_all():
    images = {read("cluster.yaml")["docker"]["image"]}
    cluster = read("rayjob.yaml")["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        images |= {c["image"] for c in group["template"]["spec"]["containers"]}
    (image,) = images
    docker = (DEPLOY / "Dockerfile").read_text("utf-8")
    assert f"-t {image} " in docker
    version = re.search(
        r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE
    )
    assert version is not None
    assert image.endswith(f":{version[1]}")


def test_every_extra_that_is_asked_for_exists():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    declared = set(project["project"]["optional-dependencies"])
    # An older pip takes `open_clip` for another name than `open-clip`, and only warns.
    assert not [name for name in declared if not re.fullmatch("[a-z0-9-]+", name)]
    code = [
        path
        for folder in ("stages", "pipeline", "trainer")
        for path in (ROOT / folder).rglob("*.py")
    ]
    texts = [path.read_text("utf-8") for path in (*code, ROOT / "Makefile", *DEPLOY.rglob("*.md"))]
    asked = re.findall(r"(?:nearmiss|'\.)\[([a-z0-9_,-]+)\]", "\n".join(texts))
    wanted = {name for extras in asked for name in extras.split(",")}
    assert {"demo", "dev", "open-clip", "vllm"} <= wanted <= declared


def test_the_image_gets_what_it_copies():
    """Every package of the project is let through by `.dockerignore`."""
    kept = {
        line[1:]
        for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines()
        if line.startswith("!")
    }
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    include = re.search(r"^include = (\[.*\])", text, re.MULTILINE)
    assert include is not None
    packages = {name.rstrip("*") for name in json.loads(include[1])}
    assert packages | {"constraints.txt", "pyproject.toml", "README.md"} <= kept
    assert all((ROOT / name).exists() for name in kept)


def test_the_slurm_script_and_its_arguments(tmp_path):
    """The script runs its way on one machine with stand-ins for SLURM, Ray and the driver."""
    checkout = tmp_path / "checkout"
    tools = checkout / ".venv" / "bin"
    tools.mkdir(parents=True)
    said = tmp_path / "said"
    for name in ("ray", "srun", "scontrol", "python"):
        lines = [f'echo "{name} $*" >> {said}']
        if name == "python":
            lines += [
                'case "$*" in',
                '  *"-m pipeline"*) exit "$DRIVER_STATUS";;',
                # As the real one does, wait until all nodes have started.
                f'  "- "*) until grep -q "^ray start" {said} && grep -q "^srun" {said}',
                "    do sleep 0.01; done;;",
                "  *) echo 1.2.3.4;;",
                "esac",
            ]
        tool = tools / name
        tool.write_text("\n".join(["#!/bin/sh", *lines, ""]), "utf-8")
        tool.chmod(0o755)
    script = (DEPLOY / "slurm.sh").read_text("utf-8")
    (example,) = re.findall(r"slurm\.sh (.*)", re.sub(r"\\\n[# ]*", "", script))
    for driver, restarts, again in ((0, 0, False), (2, 0, False), (3, 0, True), (3, 10, False)):
        said.write_text("", "utf-8")
        done = subprocess.run(
            ["bash", str(DEPLOY / "slurm.sh"), *shlex.split(example)],
            env={
                "PATH": "/usr/bin:/bin",
                "SLURM_SUBMIT_DIR": str(checkout),
                "SLURM_JOB_ID": "4312345",
                "SLURM_JOB_NUM_NODES": "8",
                "SLURM_CPUS_PER_TASK": "16",
                "SLURM_RESTART_COUNT": str(restarts),
                "DRIVER_STATUS": str(driver),
            },
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert (done.returncode, done.stderr) == (driver, "")
        lines = said.read_text("utf-8").splitlines()
        assert ("scontrol requeue 4312345" in lines) == again
    (start,) = (line for line in lines if line.startswith("ray start --head"))
    assert "--port=22345" in start
    (workers,) = (line for line in lines if line.startswith("srun"))
    assert "--nodes=7 " in workers
    assert "ray start --address=" in workers
    (driver_line,) = (line for line in lines if line.startswith("python -m pipeline"))
    parsed = make_parser().parse_args(shlex.split(driver_line)[3:])
    assert (parsed.recipe, parsed.output) == ("removal-cpu", "/data/runs/coco-removal")
    load_placement(str(ROOT / parsed.placement))


def test_a_submitted_checkout_leaves_runs_behind(tmp_path):
    """What Ray itself would upload for `--working-dir .`, by the ignore files of the checkout."""
    for name in (".gitignore", ".rayignore"):
        (tmp_path / name).write_text((ROOT / name).read_text("utf-8"), "utf-8")
    taken = {"pipeline/run.py", "deploy/placements/laptop.yaml", "pipeline/demo/photos.jsonl"}
    left = {
        ".venv/bin/python", ".git/HEAD", "demo-run/data/train-00000-of-00001.parquet",
        "demo-run-input/images/0.png", "runs/coco/run.json", "mine/parts/part-00000.parquet",
        "pipeline/__pycache__/run.pyc",
    }  # fmt: skip
    for name in taken | left:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x", "utf-8")
    visited: list[Path] = []
    ray_packaging._dir_travel(
        tmp_path,
        [ray_packaging._get_excludes(tmp_path, get_runtime_env_default_excludes())],
        visited.append,
        include_gitignore=True,
        logger=logging.getLogger("quiet"),
    )
    files = {str(path.relative_to(tmp_path)) for path in visited if path.is_file()}
    assert files == taken | {".gitignore", ".rayignore"}


def test_the_example_recipe_of_the_readme_is_one(tmp_path):
    text = (ROOT / "pipeline" / "recipes" / "README.md").read_text("utf-8")
    block = re.search(r"(?:^    .*\n)+", text, re.MULTILINE)
    assert block is not None
    file = tmp_path / "mine.yaml"
    file.write_text(textwrap.dedent(block[0]), "utf-8")
    book = load_recipe(str(file), ["loader.max_side=512"])
    assert book.recipes[0].settings[0]["max_side"] == 512


def test_readmes_name_files_that_are_there():
    """Of each folder's table: every file in it is there, and every module stands in it."""
    for folder in ("schemas", "workers", "pipeline"):
        text = (ROOT / folder / "README.md").read_text("utf-8").partition("## Decisions")[0]
        named = set(re.findall(r"`([a-z_]+(?:\.py|/))`", text))
        assert all((ROOT / folder / name).exists() for name in named), folder
        modules = {path.name for path in (ROOT / folder).glob("*.py")} - {"__init__.py"}
        small = {"errors.py", "version.py", "yaml_file.py"}
        assert modules - small <= named, folder


def test_the_changelog_names_the_schema_version():
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert f"`SCHEMA_VERSION` {SCHEMA_VERSION}" in text
