"""Recipes: YAML in, checked chains of stages out.

A recipe decides which bytes come out; how fast is the placement's matter. What may stand in it is
listed in `table.py`, and what a user adds to it in `plugins.py`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import yaml
from annotated_types import Ge, Le, MinLen
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from pipeline.errors import UsageError
from pipeline.recipes.pairing import Pairing
from pipeline.recipes.table import STAGES, Choice
from pipeline.yaml_file import describe, read_yaml
from schemas.ids import content_id
from schemas.names import keys_of, unknown
from schemas.records import Kind, SeedRef, SpannedCandidate
from workers.chain import AnyStage, Link
from workers.plugin import plugins_of


class RecipeFile(BaseModel):
    """A recipe as it stands in YAML: either its own `stages`, or a `mix` of other recipes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    """Name, as in `Pair.recipe`."""
    about: str
    """One line for a person."""
    kinds: tuple[Kind, ...] = ()
    """Kinds of contrast that it makes, for a person; a mix has those of its members."""
    shard_size: Annotated[int, Ge(1), Le(100_000)] = 128
    """Seeds in one shard: the unit of work, of retry and of commit."""
    stages: dict[str, dict[str, Any] | None] | None = None
    """Stage keys in order, each with its settings."""
    pairing: dict[str, Any] | None = None
    """How images of the input are paired with each other before the run, if they are."""
    mix: Annotated[list[str], MinLen(1)] | None = None
    """Names of recipes (or YAML files) that every seed goes through, one after the other."""


@dataclass(frozen=True)
class Recipe:
    """One checked chain."""

    name: str
    """Name, as in `Pair.recipe`."""
    links: tuple[Link, ...]
    """Its stages, in order."""

    @property
    def settings(self) -> list[dict[str, Any]]:
        """Every stage with all its settings, defaults included, as plain values."""
        return [{"stage": link.name, **_deciding(link.stage)} for link in self.links]

    def steps(self) -> list[tuple[Link, str]]:
        """Every stage with its settings as canonical JSON, as provenance holds them."""
        return [(link, json.dumps(_deciding(link.stage), sort_keys=True)) for link in self.links]

    @property
    def digest(self) -> str:
        """Content id of everything that decides a row."""
        return content_id(json.dumps([self.name, self.settings], sort_keys=True))


@dataclass(frozen=True)
class RecipeBook:
    """What a run makes: one recipe, or the members of a mix."""

    name: str
    """Name of the recipe that was asked for."""
    about: str
    """One line for a person."""
    shard_size: int
    """Seeds in one shard."""
    recipes: tuple[Recipe, ...]
    """The chains; every seed goes through all of them."""
    pairing: Pairing | None = None
    """How images of the input are paired with each other before the run."""
    kinds: tuple[Kind, ...] = ()
    """Kinds of contrast that it makes, as the files state them."""

    @property
    def digest(self) -> str:
        """Content id over all members."""
        parts = [recipe.digest for recipe in self.recipes]
        if self.pairing is not None:
            parts.append(json.dumps(_deciding(self.pairing), sort_keys=True))
        return content_id(self.name, *parts)


def shipped_recipes() -> dict[str, Path]:
    """Names and files of the recipes that come with the code."""
    return {path.stem: path for path in sorted(Path(__file__).parent.glob("*.yaml"))}


def load_recipe(
    name: str, overrides: Sequence[str] = (), stages: Mapping[str, Choice] = STAGES
) -> RecipeBook:
    """The recipe of a shipped name or YAML file, with `key=value` overrides applied.

    `stages` is what may stand in it: `plugins.stages_with` adds a user's own.

    `shard_size=64` sets a key of the recipe; `segmenter.min_area=0.01` a setting of a stage (in a
    mix, of that stage in every member); `flip.loader.max_side=512` one of one member.
    Raises UsageError naming the file, the key, the value and what is allowed.
    """
    changes = [_parse_override(text) for text in overrides]
    book = _read(name)
    members = [_read(member) for member in book.mix] if book.mix else [book]
    for member_name, times in Counter(member.name for member in members).items():
        if times > 1:
            raise UsageError(f"recipe {name}: mix has a recipe called {member_name} twice")
    used = [False] * len(changes)
    for i, (path, value) in enumerate(changes):
        if path == ["shard_size"]:
            used[i] = True
            book = _validated(book.name, {**book.model_dump(), "shard_size": value})
        elif path[0] == "pairing" and len(path) > 1 and book.pairing is not None:
            used[i] = True
            changed = dict(book.pairing)
            _set(overrides[i], changed, path[1:], value)
            book = book.model_copy(update={"pairing": changed})
    recipes = []
    for member in members:
        if not member.stages:
            raise UsageError(f"recipe {member.name}: has no stages; a mix may not name a mix")
        chain = {key: dict(settings or {}) for key, settings in member.stages.items()}
        for i, (path, value) in enumerate(changes):
            own = path[1:] if path[0] == member.name else path
            if len(own) > 1 and own[0] in chain:
                _set(overrides[i], chain[own[0]], own[1:], value)
                used[i] = True
        links = tuple(Link(key, _build(member.name, key, s, stages)) for key, s in chain.items())
        _check_types(member.name, links)
        recipes.append(Recipe(member.name, links))
    for text, hit in zip(overrides, used, strict=True):
        if not hit:
            raise UsageError(f"--set {text}: {_no_such_key(text, book, recipes)}")
    pairing = None if book.pairing is None else _pairing(book.name, dict(book.pairing), stages)
    kinds = tuple(dict.fromkeys(kind for part in (book, *members) for kind in part.kinds))
    return RecipeBook(book.name, book.about, book.shard_size, tuple(recipes), pairing, kinds)


def _pairing(recipe: str, settings: dict[str, Any], stages: Mapping[str, Choice]) -> Pairing:
    where = f"recipe {recipe}: pairing"
    embedders = stages["embedder"].backends["appearance"]
    settings["embedder"] = _build_backend(f"{where}.embedder", embedders, settings.get("embedder"))
    pairing: Pairing = _instance(where, Pairing, settings)
    return pairing


def settings_of(value: object) -> dict[str, Any]:
    """The fields of a stage or backend that decide rows, as plain JSON values."""
    assert is_dataclass(value)
    settings = (f for f in fields(value) if f.init and f.metadata.get("decides_rows", True))
    return {f.name: _plain(getattr(value, f.name)) for f in settings}


def _deciding(stage: object) -> dict[str, Any]:
    """All that decides a stage's rows: its settings, and the content of the plugins in it."""
    plugins = [plugin.id for plugin in plugins_of(stage)]
    return {**({"plugins": plugins} if plugins else {}), **settings_of(stage)}


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return settings_of(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {str(_plain(key)): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    return value


def _read(name: str) -> RecipeFile:
    shipped = shipped_recipes()
    path = Path(name) if name.endswith((".yaml", ".yml")) else shipped.get(name)
    if path is None:
        raise UsageError(f"{unknown('recipe', name, shipped)}; or give a .yaml file")
    content = read_yaml("recipe", path)
    if not isinstance(content, dict):
        raise UsageError(f"recipe file {path} must hold a mapping with name, about and stages")
    recipe = _validated(str(path), content)
    if (recipe.stages is None) == (recipe.mix is None):
        raise UsageError(f"recipe file {path}: give either stages or mix")
    return recipe


def _validated(where: str, content: Mapping[str, Any]) -> RecipeFile:
    try:
        return RecipeFile.model_validate(content)
    except ValidationError as error:
        raise UsageError(f"recipe {where}: {describe(error, RecipeFile)}") from None


def _build(
    recipe: str, key: str, settings: dict[str, Any], stages: Mapping[str, Choice]
) -> AnyStage:
    choice = stages.get(key)
    if choice is None:
        raise UsageError(f"recipe {recipe}: {unknown('stage', key, stages)}")
    defaults = {of_stage.name: of_stage.default for of_stage in fields(choice.stage)}
    for field, backends in choice.backends.items():
        where = f"recipe {recipe}: {key}.{field}"
        # One that a stage can do without is left out if its default, or the recipe, says null.
        if settings.get(field, defaults[field]) is not None:
            settings[field] = _build_backend(where, backends, settings.get(field))
    _complete(choice.stage, settings)
    stage: AnyStage = _instance(f"recipe {recipe}: {key}", choice.stage, settings)
    return stage


def _complete(stage: type[Any], settings: dict[str, Any]) -> None:
    """Of a group of settings (`sampling`) the keys that are not given keep the stage's defaults.

    A group with a name is a choice of another thing, and nothing of the default stays.
    """
    for of_stage in fields(stage):
        given = settings.get(of_stage.name)
        make = of_stage.default_factory
        if isinstance(given, dict) and "name" not in given and make is not MISSING:
            default = make()
            if is_dataclass(default):
                settings[of_stage.name] = {**settings_of(default), **given}


def _build_backend(where: str, backends: Sequence[type[Any]], settings: object) -> object:
    if isinstance(settings, str):
        settings = {"name": settings}
    if settings is not None and not isinstance(settings, dict):
        raise UsageError(f"{where}: {settings!r} is neither a backend's name nor its settings")
    by_name = {backend.name: backend for backend in backends}
    name = (settings or {}).get("name", next(iter(by_name)))
    if name not in by_name:
        raise UsageError(f"{where}: {unknown('backend', str(name), by_name)}")
    return _instance(where, by_name[name], settings or {})


def _instance(where: str, cls: type[Any], settings: Mapping[str, Any]) -> Any:
    for key in settings:
        # A plugin's class may not say that others are errors.
        if key not in keys_of(cls):
            raise UsageError(f"{where}: {unknown('key', key, keys_of(cls))}")
    try:
        return TypeAdapter(cls).validate_python(settings)
    except ValidationError as error:
        raise UsageError(f"{where}: {describe(error, cls)}") from None


def _check_types(recipe: str, links: Sequence[Link]) -> None:
    """Refuse a chain in which a stage would be handed records that it does not take."""
    produced: type = SeedRef
    before = "the input"
    for link in links:
        if link.stage.consumes is not produced:
            raise UsageError(
                f"recipe {recipe}: {link.name} consumes {link.stage.consumes.__name__}, but "
                f"{before} before it produces {produced.__name__}"
            )
        produced, before = link.stage.produces, link.name
    if produced is not SpannedCandidate:
        raise UsageError(
            f"recipe {recipe}: the chain ends with {before}, which produces {produced.__name__}; "
            "it must end with masker"
        )


def _parse_override(text: str) -> tuple[list[str], Any]:
    key, sign, value = text.partition("=")
    if not sign or not all(key.split(".")):
        raise UsageError(
            f"--set {text}: write it as key=value, for example segmenter.min_area=0.01"
        )
    try:
        return key.split("."), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise UsageError(f"--set {text}: the value is not YAML: {_one_line(error)}") from None


def _no_such_key(text: str, book: RecipeFile, recipes: Sequence[Recipe]) -> str:
    """What is wrong with the first parts of a `--set` that changed nothing."""
    first, *more = text.partition("=")[0].split(".")
    members = {recipe.name: [link.name for link in recipe.links] for recipe in recipes}
    stages = list(dict.fromkeys(name for names in members.values() for name in names))
    if first in members and more:
        first, known = more[0], members[first]
    else:
        known = ["shard_size", *stages, *(members if book.mix else ())]
    if first in known:
        form = "shard_size=N" if first == "shard_size" else f"{first}.KEY=VALUE"
        return f"write it as {form}"
    return unknown(f"key or stage of recipe {book.name}", first, known)


def _set(text: str, settings: dict[str, Any], path: Sequence[str], value: Any) -> None:
    for key in path[:-1]:
        inner = settings.get(key)
        if not isinstance(inner, str | dict | None):
            raise UsageError(f"--set {text}: {key} is {inner!r}, which has no settings of its own")
        # A copy, so that the member of a mix does not share it with another.
        settings[key] = {"name": inner} if isinstance(inner, str) else dict(inner or {})
        settings = settings[key]
    settings[path[-1]] = value


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
