"""A user's Python file whose stages and backends run like ours. Knows no recipes.

Its classes are pickled by name, as all are. So the file travels with them: where they are unpickled
its module is made first, under a name that follows from its content.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from importlib.abc import ExecutionLoader
from types import ModuleType
from typing import Any

from schemas.ids import content_id

_MARK = "__nearmiss_plugin__"
"""Name in a plugin's module under which its `Plugin` stands."""


@dataclass(frozen=True)
class Plugin:
    """The file as it was read by the command."""

    file: str
    """Its path, for messages and tracebacks; on a worker there need not be such a file."""
    source: str
    """Its text."""

    @property
    def id(self) -> str:
        """Content id of the text."""
        return content_id(self.source)

    def __reduce__(self) -> tuple[Callable[[str, str], Plugin], tuple[str, str]]:
        """Unpickling one makes its module, which what follows in the pickle needs."""
        return _loaded, (self.file, self.source)

    def load(self) -> ModuleType:
        """The module, made once in a process; raises what the file raises."""
        name = f"nearmiss_plugin_{self.id}"
        if name in sys.modules:
            return sys.modules[name]
        spec = importlib.util.spec_from_loader(name, _Loader(self))
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        setattr(module, _MARK, self)
        # Dataclasses look their module up while they are made.
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
        return module


class _Loader(ExecutionLoader):
    """Gives the text to the import system, which shows its lines in tracebacks."""

    def __init__(self, plugin: Plugin) -> None:
        self._plugin = plugin

    def get_source(self, fullname: str) -> str:  # noqa: ARG002  # of one module only
        """See `InspectLoader`."""
        return self._plugin.source

    def get_filename(self, fullname: str) -> str:  # noqa: ARG002  # of one module only
        """See `ExecutionLoader`."""
        return self._plugin.file

    def is_package(self, fullname: str) -> bool:  # noqa: ARG002  # never
        """See `InspectLoader`."""
        return False


def plugin_of(cls: type[Any]) -> Plugin | None:
    """The plugin that a class was defined in, if it was in one."""
    return getattr(sys.modules.get(cls.__module__), _MARK, None)


def plugins_of(value: object) -> tuple[Plugin, ...]:
    """The plugins whose classes a stage holds: its own, and those of its settings and backends."""
    found = {plugin.id: plugin for plugin in map(plugin_of, _classes(value)) if plugin}
    return tuple(found.values())


def _classes(value: object) -> Iterator[type[Any]]:
    yield type(value)
    inner: list[object] = []
    if is_dataclass(value):
        inner = [getattr(value, of_value.name, None) for of_value in fields(value)]
    elif isinstance(value, Mapping):
        inner = [*value.keys(), *value.values()]
    elif isinstance(value, list | tuple | set | frozenset):
        inner = list(value)
    for item in inner:
        yield from _classes(item)


def _loaded(file: str, source: str) -> Plugin:
    plugin = Plugin(file, source)
    plugin.load()
    return plugin
