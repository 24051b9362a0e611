"""Input formats, one class a file: how each is recognised, and how its files become rows.

Every concrete `Format` in a module of this folder is a format; they are listed nowhere else.
"""

from functools import cache
from importlib import import_module
from inspect import isabstract
from pkgutil import iter_modules

from pipeline.sources.formats.base import Format, Input, PlacedRow, Table

__all__ = ["Format", "Input", "PlacedRow", "Table", "formats"]


@cache
def formats() -> tuple[Format, ...]:
    """One of each format, by the name of its module; tables last."""
    modules = [import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__)]
    found: list[Format] = [
        value()
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, Format)
        if value.__module__ == module.__name__ and not isabstract(value)
    ]
    return tuple(sorted(found, key=lambda one: isinstance(one, Table)))
