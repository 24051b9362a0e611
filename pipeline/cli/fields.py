"""The keys of a settings class, in words: read from the class and its source, so they cannot drift.

Knows dataclasses and pydantic models, not what they configure.
"""

from __future__ import annotations

import ast
import inspect
import types
from collections.abc import Collection, Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from enum import Enum
from itertools import pairwise
from pathlib import Path
from textwrap import dedent
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from schemas.names import keys_of, settings_in


@dataclass(frozen=True)
class Key:
    """One key of some settings."""

    name: str
    """As it stands in YAML; with dots for a key inside another."""
    kind: str
    """What may be given, in words."""
    default: str
    """What holds if nothing is given, as YAML; "required" if something must be given."""
    meaning: str
    """What it does, with its unit."""
    decides_rows: bool
    """False for a key that can be changed when a run is resumed."""


def keys(settings: type[Any], inside: str = "", given: object = None) -> Iterator[Key]:
    """The keys of a settings class in order, each followed by those of settings in it.

    `inside` is the key of the settings around it with a dot, and `given` their default. The name
    by which a class is chosen is left out.
    """
    hints = get_type_hints(settings, include_extras=True)
    meanings = _meanings(settings)
    defaults, marks = _defaults(settings)
    if isinstance(given, settings):
        defaults = {name: getattr(given, name) for name in defaults}
    for name in keys_of(settings):
        hint = hints[name]
        if get_origin(hint) is Literal and len(get_args(hint)) == 1:
            continue
        inner = list(settings_in(hint))
        yield Key(
            name=f"{inside}{name}",
            kind=_kind(hint),
            default=_text(defaults[name], short=bool(inner)),
            meaning=meanings.get(name, ""),
            decides_rows=marks.get(name, True),
        )
        entry = f"{inside}{name}." + ("KEY." if _origin(hint) in _MAPPINGS else "")
        if len(inner) == 1:
            yield from keys(inner[0], entry, defaults[name])


def first_line(settings: type[Any]) -> str:
    """The first paragraph of a class's docstring, on one line."""
    return " ".join((inspect.getdoc(settings) or "").partition("\n\n")[0].split())


def _meanings(settings: type[Any]) -> dict[str, str]:
    """The string under each field, of the class and of those that it inherits from."""
    found: dict[str, str] = {}
    for cls in reversed(settings.__mro__):
        if not is_dataclass(cls) and not hasattr(cls, "model_fields"):
            continue
        try:
            tree = ast.parse(dedent(inspect.getsource(cls)))
        except (OSError, TypeError):  # a class without source: pydantic's own base
            continue
        body = getattr(tree.body[0], "body", [])
        for field, after in pairwise(body):
            match field, after:
                case (
                    ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(text))),
                ):
                    found[name] = " ".join(text.split())
    return found


def _defaults(settings: type[Any]) -> tuple[dict[str, Any], dict[str, bool]]:
    """Default by key, MISSING where one must be given; and which keys decide rows."""
    if not is_dataclass(settings):
        of_model = settings.model_fields
        found = {n: MISSING if f.is_required() else f.get_default(call_default_factory=True)
                 for n, f in of_model.items()}  # fmt: skip
        return found, {}
    defaults = {
        f.name: f.default if f.default_factory is MISSING else f.default_factory()
        for f in fields(settings)
    }
    return defaults, {f.name: f.metadata.get("decides_rows", True) for f in fields(settings)}


def _text(value: Any, *, short: bool) -> str:
    """A default as YAML; of settings that are listed key by key just that they have defaults."""
    if value is MISSING:
        return "required"
    if short and value is not None and (_is_settings(value) or isinstance(value, Mapping)):
        return "as below" if _is_settings(value) else _entries(value)
    if isinstance(value, type(None) | bool | int | float | str | Enum | Path | Collection):
        text = yaml.safe_dump(_plain(value), default_flow_style=True, width=10_000)
        return text.removesuffix("\n").removesuffix("\n...")
    return str(getattr(value, "name", value))


def _entries(value: Mapping[Any, Any]) -> str:
    text = yaml.safe_dump(_plain(value), default_flow_style=True, width=10_000)
    return text.strip()


def _is_settings(value: object) -> bool:
    return is_dataclass(value) or hasattr(type(value), "model_fields")


def _plain(value: Any) -> Any:
    if _is_settings(value):
        given = ((name, getattr(value, name)) for name in keys_of(type(value)))
        return {name: _plain(item) for name, item in given if item is not None}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, Collection) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


_MAPPINGS = (dict, Mapping)
_SIMPLE = {
    bool: "true or false",
    int: "whole number",
    float: "number",
    str: "text",
    Path: "path",
    type(None): "null",
}


def _origin(hint: Any) -> Any:
    """What a hint is at its core: `dict` of `Annotated[dict[str, int], ...]`."""
    while get_origin(hint) is Annotated:
        hint = get_args(hint)[0]
    return get_origin(hint)


def _kind(hint: Any) -> str:
    """A type in words: "number from 0 to 1"."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return f"{_kind(args[0])}{_bounds(args[1:])}"
    if words := _alternatives(hint):
        return either(words)
    if origin in _MAPPINGS:
        return f"mapping of {_kind(args[0])} to {_kind(args[1])}"
    if isinstance(origin, type) and issubclass(origin, Collection):
        items = [_kind(arg) for arg in args if arg is not Ellipsis]
        if origin is tuple and Ellipsis not in args:
            return f"list of {len(items)}: {', '.join(items)}"
        return f"list of {items[0] if items else 'values'}"
    if hint in _SIMPLE:
        return _SIMPLE[hint]
    if hint is Any or hint is object:
        return "anything"
    return "settings" if any(settings_in(hint)) else "a backend"


def _alternatives(hint: Any) -> list[str]:
    """What a choice is between, each in words; "null" last, as what one gives to have none."""
    if isinstance(hint, type) and issubclass(hint, Enum):
        return [str(member.value) for member in hint]
    if get_origin(hint) is Literal:
        return [_text(value, short=False) for value in get_args(hint)]
    if get_origin(hint) not in (Union, types.UnionType):
        return []
    words = [w for arg in get_args(hint) for w in (_alternatives(arg) or [_kind(arg)])]
    return [word for word in words if word != "null"] + ["null"] * ("null" in words)


def either(words: list[str]) -> str:
    """Alternatives in words: "a, b or c"."""
    words = list(dict.fromkeys(words))
    return f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else words[0]


def _bounds(metadata: tuple[Any, ...]) -> str:
    """Limits of a number or a length, in words."""
    found = _limits(metadata)
    low, high = found.get("ge"), found.get("le")
    if low is not None and high is not None:
        return f" from {low:g} to {high:g}"
    words = [
        f"{word} {found[side]:g}{after}"
        for side, word, after in (
            ("ge", "from", " up"),
            ("gt", "above", ""),
            ("le", "up to", ""),
            ("lt", "below", ""),
        )
        if side in found
    ]
    if found.get("min_length"):
        words.append("not empty")
    if "pattern" in found:
        words.append(f"that matches {found['pattern']}")
    return f" {', '.join(words)}" if words else ""


def _limits(metadata: tuple[Any, ...]) -> dict[str, Any]:
    """Limits by their names in `annotated_types`; a pydantic `Field` holds them one level down."""
    found: dict[str, Any] = {}
    for item in metadata:
        for side in ("ge", "gt", "le", "lt", "min_length", "pattern"):
            if getattr(item, side, None) is not None:
                found[side] = getattr(item, side)
        found |= _limits(tuple(getattr(item, "metadata", ())))
    return found
