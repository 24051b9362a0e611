"""The error message for an unknown name: a stage, key, format, preset or family."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from typing import Any, get_args, get_type_hints


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """One line for a name that is not among `known`: the name, the nearest one, all of them.

    `what` is the kind of thing, in the singular: "stage", "preset", "key of detector". The caller
    says in front of it where the name stands ("recipe mine: "). `known` keeps its order.
    """
    names = list(dict.fromkeys(known))
    if not names:
        return f"unknown {what} {name!r}; there are none"
    near = get_close_matches(name.lower(), [known.lower() for known in names], n=1)
    guess = next((f"; did you mean {x}?" for x in names if near and x.lower() == near[0]), "")
    return f"unknown {what} {name!r}{guess or ';'} known are {', '.join(names)}"


def unknown_key(settings: type[Any], place: Sequence[str | int]) -> str:
    """`unknown` for a key in settings: `place` is pydantic's `loc`, with the key at its end."""
    *before, name = place
    return unknown("key", str(name), keys_at(settings, before))


def keys_at(settings: type[Any], place: Sequence[str | int]) -> list[str]:
    """Keys allowed at a place in settings, a dataclass or a pydantic model."""
    here = [settings]
    for part in place:
        deeper = [x for c in here for x in settings_in(get_type_hints(c).get(str(part)))]
        # A place also holds the class chosen from several (`tune.lora`) and the number or key of
        # an entry; these lead no deeper.
        chosen = [c for c in here if part in _tags(c)]
        here = deeper or chosen or here
    return list(dict.fromkeys(key for c in here for key in keys_of(c)))


def keys_of(settings: type[Any]) -> list[str]:
    """Keys of one settings class, in order."""
    if is_dataclass(settings):
        return [of_class.name for of_class in fields(settings) if of_class.init]
    return list(settings.model_fields)


def settings_in(annotation: object) -> Iterator[type[Any]]:
    """The settings classes that an annotation names: `Lora` and `Full` of `Lora | Full`."""
    if isinstance(annotation, type) and (
        is_dataclass(annotation) or hasattr(annotation, "model_fields")
    ):
        yield annotation
    for inner in get_args(annotation):
        yield from settings_in(inner)


def _tags(settings: type[Any]) -> tuple[object, ...]:
    return (settings.__name__, *get_args(get_type_hints(settings).get("name")))
