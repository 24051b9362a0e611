"""What no linter sees: where the packages come from, what they load, how long they are."""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import subprocess
import sys
import tomllib
from pathlib import Path

import grimp
import networkx as nx
import pytest

from stages.base import GroupStage, Stage

ROOT = Path(__file__).parents[1]
PACKAGES = ("schemas", "stages", "workers", "pipeline", "trainer")
FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]

ROOMS = sorted({path.parent for path in FILES})

MAX_MODULES = 16
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60


@pytest.mark.parametrize("name", PACKAGES)
def test_the_names_are_ours(name):
    """The names are generic: some other package may bring one of its own."""
    found = importlib.import_module(name).__file__
    assert found is not None
    assert Path(found) == ROOT / name / "__init__.py"


def test_the_driver_stays_light():
    """Loading the command, a run and every recipe loads no framework of models, and not Ray."""
    code = """
import json, sys
import pipeline.run, pipeline.commands, pipeline.__main__
from pipeline.recipes.build import load_recipe, shipped_recipes
for name in shipped_recipes():
    load_recipe(name)
print(json.dumps(sorted(sys.modules)))
"""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    loaded = set(json.loads(result.stdout))
    assert "stages.edit.inpainter" in loaded
    heavy = {"torch", "vllm", "diffusers", "transformers", "ray", "datasets", "skimage"}
    assert not loaded & heavy
    # Of the trainer only what the command line parses with.
    assert {m for m in loaded if m.startswith("trainer")} == {"trainer", "trainer.arguments"}


def test_schemas_load_arrow_and_nothing_larger():
    code = (
        "import json, sys, schemas.records, schemas.shards, schemas.outcomes; "
        "print(json.dumps(sorted(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert not set(json.loads(result.stdout)) & {"PIL", "cv2", "pydantic", "yaml", "rich", "ray"}


def test_no_stage_is_missing_from_its_contract():
    """The linter holds apart the stages that `pyproject.toml` lists: all that there are."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    contracts = {c["name"]: c for c in project["tool"]["importlinter"]["contracts"]}
    stages = set()
    for path in sorted((ROOT / "stages").rglob("*.py")):
        if "backends" in path.parts:
            continue
        module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
        stages |= {
            value.__module__
            for value in vars(module).values()
            if isinstance(value, type)
            and issubclass(value, Stage | GroupStage)
            and not inspect.isabstract(value)
        }
    assert len(stages) > 25
    assert stages <= set(contracts["Stages do not know each other"]["modules"])


def room_of(module: str) -> str:
    """The first two names: a room with all below it, or a module at a package's root."""
    return ".".join(module.split(".")[:2])


@pytest.mark.parametrize("of", [str, room_of], ids=["modules", "rooms"])
def test_no_two_need_each_other(of):
    graph = grimp.build_graph(*PACKAGES, exclude_type_checking_imports=True)
    arrows = nx.DiGraph(
        (of(module), of(other))
        for module in graph.modules
        for other in graph.find_modules_directly_imported_by(module)
        if of(module) != of(other)
    )
    circles = [sorted(c) for c in nx.strongly_connected_components(arrows) if len(c) > 1]
    assert circles == []


@pytest.mark.parametrize("room", ROOMS, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_room_can_be_taken_in_at_a_glance(room):
    """Its first lines say what lives there, and it is not a pile."""
    assert ast.get_docstring(ast.parse((room / "__init__.py").read_text("utf-8"))), "say what"
    modules = [path for path in room.glob("*.py") if path.name != "__init__.py"]
    assert len(modules) <= MAX_MODULES


def test_there_are_files_to_look_at():
    assert len(FILES) > 60


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_house_style(path):
    text = path.read_text("utf-8")
    name = str(path.relative_to(ROOT))
    assert len(text.splitlines()) < MAX_FILE_LINES
    tree = ast.parse(text)
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Name(id="print")):
                raise AssertionError(f"{name}:{node.lineno}: print; log, or write to sys.stdout")
            case ast.Import():
                modules = [alias.name for alias in node.names]
            case ast.ImportFrom(module=str(module)):
                modules = [module]
            case ast.FunctionDef(name=function) | ast.AsyncFunctionDef(name=function):
                length = node.end_lineno - node.lineno + 1
                assert length < MAX_FUNCTION_LINES, f"{function}: {length} lines"
                continue
            case _:
                continue
        for module in modules:
            top = module.partition(".")[0]
            assert top not in {"tests", "deploy"}, f"{name}:{node.lineno}: imports {module}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_parquet_in_pythons_memory_is_read_in_this_thread(path):
    """Arrow's pool threads may let go of Python's bytes while the interpreter ends. Then the
    process aborts, one time in ten, after its work is done: a wrong exit status."""
    tree = ast.parse(path.read_text("utf-8"))
    for function in ast.walk(tree):
        if not isinstance(function, ast.FunctionDef):
            continue
        source = ast.unparse(function)
        reads_bytes = "pa.BufferReader(" in source and "pq." in source
        assert not reads_bytes or "use_threads=False" in source, function.name
