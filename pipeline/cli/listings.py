"""What there is to choose from, as text: recipes, the keys of their stages, training presets.

All of it is read from the recipes, classes and presets themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from textwrap import fill
from typing import Any, get_args, get_type_hints

import yaml

from pipeline.cli.fields import Key, either, first_line, keys
from pipeline.engine.placement import Placement
from pipeline.errors import UsageError
from pipeline.inspect.models import backends_of, needed_models
from pipeline.recipes.build import (
    RecipeBook,
    RecipeFile,
    load_recipe,
    settings_of,
    shipped_recipes,
)
from pipeline.recipes.pairing import Pairing
from pipeline.recipes.table import Choice
from schemas.names import settings_in, unknown
from stages.base import GroupStage

WIDTH = 100

ELSEWHERE = {"recipe": RecipeFile, "pairing": Pairing, "placement": Placement}
"""Settings that are no stage's, by the name under which they are asked for."""

_TRAINING = ("train", "loss")


def list_recipes(name: str | None, stages: Mapping[str, Choice]) -> str:
    """Every shipped recipe, or the chain of one with its settings as YAML."""
    if name is not None:
        return _recipe(load_recipe(name, stages=stages))
    blocks = []
    for shipped in shipped_recipes():
        book = load_recipe(shipped, stages=stages)
        kinds = ", ".join(book.kinds)
        blocks.append(f"{shipped}\n{_wrapped(book.about)}\n{_wrapped(f'{kinds}; {_needs(book)}')}")
    return "\n".join([*blocks, "", "`nearmiss recipes NAME` shows the whole chain of one."])


def _recipe(book: RecipeBook) -> str:
    content: dict[str, Any] = {"shard_size": book.shard_size}
    if book.pairing is not None:
        content["pairing"] = settings_of(book.pairing)
    chains = {
        recipe.name: {"stages": {link.name: settings_of(link.stage) for link in recipe.links}}
        for recipe in book.recipes
    }
    content |= chains if len(chains) > 1 else chains[book.recipes[0].name]
    head = f"{book.name}: {book.about}\n{', '.join(book.kinds)}; {_needs(book)}\n"
    return f"{head}\n{_yaml(content)}"


def _needs(book: RecipeBook) -> str:
    """What a recipe runs on besides CPUs."""
    found = []
    if models := len(needed_models(book)):
        found.append(f"{models} checkpoint{'s' * (models > 1)} for a GPU")
    if stages := [stage for stage, backend in backends_of(book) if hasattr(backend, "base_url")]:
        found.append(f"a chat endpoint for {', '.join(s.partition('.')[2] for s in stages)}")
    return f"needs {' and '.join(found)}" if found else "CPU only"


def list_settings(name: str | None, choice: str | None, stages: Mapping[str, Choice]) -> str:
    """All stages; or the keys of one, of one of its backends, or of what `ELSEWHERE` names.

    UsageError for a name that is unknown.
    """
    if name is None:
        lines = [_stage_line(key, stage) for key, stage in stages.items()]
        rest = ", ".join((*ELSEWHERE, *_TRAINING))
        return "\n".join([*lines, "", f"Other settings: {rest}.", _HINT])
    if name in _TRAINING:
        return _training(name, choice)
    if name in ELSEWHERE:
        if choice is not None:
            raise UsageError(f"{name} has no backends, so not {choice!r}")
        of_pairing = {"embedder": stages["embedder"].backends["appearance"]}
        choice_of = Choice(ELSEWHERE[name], of_pairing if name == "pairing" else {})
        found = (_with_backends("embedder", key, choice_of) for key in keys(ELSEWHERE[name]))
        return "\n".join([f"{name}: {first_line(ELSEWHERE[name])}", *map(_key, found)])
    if name not in stages:
        raise UsageError(unknown("stage", name, (*stages, *ELSEWHERE, *_TRAINING)))
    return _stage(name, stages[name]) if choice is None else _backend(name, choice, stages[name])


_HINT = "`nearmiss settings NAME [BACKEND]` shows their keys."


def _stage_line(name: str, choice: Choice) -> str:
    backends = sorted({b.name for classes in choice.backends.values() for b in classes})
    with_what = f" With {', '.join(backends)}." if backends else ""
    return f"{name}\n{_wrapped(first_line(choice.stage) + with_what)}"


def _stage(name: str, choice: Choice) -> str:
    form = "all {} records of a seed" if _is_group(choice) else "{}"
    records = form.format(choice.stage.consumes.__name__)
    takes = f"Takes {records}, gives {choice.stage.produces.__name__}."
    found = [_with_backends(name, key, choice) for key in keys(choice.stage)]
    return "\n".join([f"{name}: {first_line(choice.stage)}", takes, *map(_key, found)])


def _is_group(choice: Choice) -> bool:
    return issubclass(choice.stage, GroupStage)


def _with_backends(stage: str, key: Key, choice: Choice) -> Key:
    if key.name not in choice.backends:
        return key
    names = [backend.name for backend in choice.backends[key.name]]
    default = names[0] if key.default != "null" else "none"
    more = f"A name, or a name with keys: `nearmiss settings {stage} {names[0]}`."
    return replace(key, kind=either(names), default=default, meaning=f"{key.meaning} {more}")


def _backend(name: str, backend: str, choice: Choice) -> str:
    by_name = {cls.name: cls for classes in choice.backends.values() for cls in classes}
    if backend not in by_name:
        raise UsageError(unknown(f"backend of {name}", backend, by_name))
    return _block(f"{name} with {backend}", by_name[backend])


def _training(name: str, choice: str | None) -> str:
    from trainer.losses import Loss  # noqa: PLC0415  # torch, for those who ask about training alone
    from trainer.settings import Settings  # noqa: PLC0415  # likewise

    losses = {_tag(cls): cls for cls in settings_in(Loss)}
    if name == "loss":
        if choice is None:
            lines = [f"{loss}\n{_wrapped(first_line(cls))}" for loss, cls in losses.items()]
            return "\n".join([*lines, "", "`nearmiss settings loss NAME` shows the keys of one."])
        if choice not in losses:
            raise UsageError(unknown("loss", choice, losses))
        return _block(f"loss {choice}", losses[choice])
    tunes = {_tag(cls): cls for cls in settings_in(get_type_hints(Settings)["tune"])}
    if choice is None:
        more = f"`nearmiss settings train {'|'.join(tunes)}` shows the keys of tune."
        return f"{_block('train', Settings)}\n\n{more}"
    if choice not in tunes:
        raise UsageError(unknown("tune", choice, tunes))
    return _block(f"tune {choice}", tunes[choice])


def _tag(cls: type[Any]) -> str:
    """The name by which settings choose a class."""
    return str(get_args(get_type_hints(cls)["name"])[0])


def list_presets(name: str | None) -> str:
    """All training presets, or one with all its settings, defaults included, as YAML."""
    from trainer.settings import Source, load_settings, presets  # noqa: PLC0415  # see `_training`

    if name is not None:
        settings = load_settings(Source(name))
        content = settings.model_dump(mode="json", exclude={"about"})
        return f"{name}: {settings.about}\n\n{_yaml(content)}"
    lines = []
    for preset in presets():
        settings = load_settings(Source(preset))
        lines.append(f"{preset}\n{_wrapped(f'{settings.about}; loss {settings.loss.name}')}")
    return "\n".join([*lines, "", "`nearmiss presets NAME` shows all settings of one."])


def _block(title: str, settings: type[Any]) -> str:
    return "\n".join([f"{title}: {first_line(settings)}", *map(_key, keys(settings))])


def _key(key: Key) -> str:
    notes = [key.kind, "required" if key.default == "required" else f"default {key.default}"]
    if not key.decides_rows:
        notes.append("decides no row, so a resumed run may change it")
    head = fill(f"{key.name}: {'; '.join(notes)}", WIDTH, subsequent_indent=_INDENT)
    return f"\n{head}\n{_wrapped(key.meaning)}" if key.meaning else f"\n{head}"


_INDENT = "    "


def _wrapped(text: str) -> str:
    return fill(text, WIDTH, initial_indent=_INDENT, subsequent_indent=_INDENT)


def _yaml(content: object) -> str:
    text: str = yaml.safe_dump(content, sort_keys=False, width=WIDTH, allow_unicode=True)
    return text.rstrip()
