"""`--plugin FILE`: stages and backends from a user's Python file.

The file names them in one or both of two mappings at its top level:

    STAGES = {"grayscaler": Grayscaler}
    BACKENDS = {"inpainter.backend": [MyFill], "grayscaler.backend": [MyTones]}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from pipeline.errors import UsageError
from pipeline.recipes.table import STAGES, Choice
from schemas.names import unknown
from stages.base import GroupStage, Stage
from workers.plugin import Plugin


def stages_with(files: Sequence[str]) -> Mapping[str, Choice]:
    """All stages that a recipe may name under `stages:`: the built-in ones and the plugins'.

    UsageError, naming the file, if it cannot be read or run, brings nothing, brings something that
    is not a stage or backend, or uses a name that is taken.
    """
    stages = dict(STAGES)
    for file in files:
        try:
            _add(stages, _module(file))
        except _RefusedError as error:
            raise UsageError(f"--plugin {file}: {error}") from None
    return stages


class _RefusedError(ValueError):
    """What is wrong with a plugin; does not name its file."""


def _module(file: str) -> ModuleType:
    try:
        source = Path(file).read_text("utf-8")
    except FileNotFoundError:
        raise _RefusedError("there is no such file") from None
    except (OSError, ValueError) as error:
        raise _RefusedError(
            f"cannot be read: {getattr(error, 'strerror', None) or error}"
        ) from None
    try:
        return Plugin(file, source).load()
    except SyntaxError as error:
        raise _RefusedError(f"line {error.lineno}: {error.msg}") from None
    except Exception as error:  # noqa: BLE001  # the user's code may raise anything
        said = " ".join(str(error).split())
        raise _RefusedError(f"raises {type(error).__name__}: {said}, when it is imported") from None


def _add(stages: dict[str, Choice], module: ModuleType) -> None:
    own, backends = _mapping(module, "STAGES"), _mapping(module, "BACKENDS")
    if not own and not backends:
        raise _RefusedError(
            'brings nothing; give it STAGES = {"my_stage": MyStage} or '
            'BACKENDS = {"detector.backend": [MyDetector]}'
        )
    for name, stage in own.items():
        if name in stages:
            raise _RefusedError(f"there is a stage {name} already; choose another name")
        if not name.isidentifier():
            raise _RefusedError(f"{name!r} is not a name for a stage: letters, digits and _ only")
        if problem := _problem(stage, (Stage, GroupStage)):
            raise _RefusedError(f"STAGES[{name!r}] {problem}")
        stages[name] = Choice(stage, {})
    for place, classes in backends.items():
        name, _, field = place.partition(".")
        places = [f"{key}.{f}" for key, choice in stages.items() for f in choice.backends]
        if name not in own and place not in places:
            raise _RefusedError(unknown("place of a backend", place, places))
        for backend in classes:
            if problem := _problem(backend, ()):
                raise _RefusedError(f"BACKENDS[{place!r}]: {backend!r} {problem}")
            stages[name] = _with_backend(stages[name], place, field, backend)


def _with_backend(choice: Choice, place: str, field: str, backend: type[Any]) -> Choice:
    there = choice.backends.get(field, ())
    if not isinstance(getattr(backend, "name", None), str):
        raise _RefusedError(
            f'{backend.__name__} has no name; give it name: Literal["mine"] = "mine"'
        )
    if not callable(getattr(backend, "load", None)):
        raise _RefusedError(f"{backend.__name__} has no load(device), which gives its open model")
    if backend.name in (other.name for other in there):
        raise _RefusedError(f"there is a backend {backend.name} for {place} already")
    return Choice(choice.stage, {**choice.backends, field: (*there, backend)})


def _mapping(module: ModuleType, name: str) -> Mapping[str, Any]:
    value = getattr(module, name, {})
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise _RefusedError(f"{name} must be a mapping of names, not {value!r:.80}")
    return value


def _problem(value: object, bases: tuple[type[Any], ...]) -> str | None:
    """Why a recipe cannot build this; None if it can."""
    if not isinstance(value, type):
        return f"is {value!r:.80}, not a class"
    if bases and not issubclass(value, bases):
        return f"({value.__name__}) is neither a Stage nor a GroupStage of stages.base"
    if lacking := getattr(value, "__abstractmethods__", ()):
        return f"({value.__name__}) lacks {', '.join(sorted(lacking))}"
    if not is_dataclass(value):
        return f"({value.__name__}) is not a dataclass; its fields are its settings"
    return None
