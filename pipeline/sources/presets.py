"""The presets - those of the formats, and `presets.yaml` for tables - and the one that fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files

import yaml

from pipeline.sources.columns import FIELDS, PAIR_FIELDS, REQUIRED, Mapped, Preset
from pipeline.sources.errors import SourceError
from pipeline.sources.formats import Input, formats
from schemas.names import unknown


@cache
def presets() -> Mapping[str, Preset]:
    """The presets by name, in the order in which they are tried."""
    text = files("pipeline.sources").joinpath("presets.yaml").read_text(encoding="utf-8")
    of_formats = [preset for one in formats() if (preset := one.preset) is not None]
    of_tables = [
        Preset(
            name,
            tuple(entry["formats"]),
            tuple(entry["requires"]),
            {field: tuple(columns) for field, columns in entry["columns"].items()},
            entry.get("defaults", {}),
        )
        for name, entry in yaml.safe_load(text).items()
    ]
    return {preset.name: preset for preset in (*of_formats, *of_tables)}


def preset_named(name: str) -> Preset:
    """The preset of this name; `SourceError` if there is none."""
    if name not in presets():
        problem = unknown("preset", name, presets())
        raise SourceError(f"--columns preset={name}: {problem}")
    return presets()[name]


def map_columns(source: Input, existing: Sequence[str], asked: Mapping[str, str]) -> Mapped:
    """The mapping for an input with these columns; `asked` is what `--columns` said.

    `asked` holds field=column, and `preset` for a preset by name; an empty column means that no
    column fills the field. `existing` names the columns of the input, nested ones with dots.
    """
    for name in asked:
        if name != "preset" and name not in FIELDS:
            problem = unknown("field", name, ("preset", *FIELDS))
            raise SourceError(f"--columns {name}=...: {problem}")
    preset = _preset(source, existing, asked)
    columns = {}
    for field in FIELDS:
        column = _column(source, field, preset, existing, asked)
        if column is not None:
            columns[field] = column
        elif field in REQUIRED:
            raise SourceError(
                f"{source.url}: preset {preset.name} finds no column for field {field}; it has "
                f"{_listed(existing)}; say which with --columns {field}=COLUMN"
            )
    return Mapped(preset.name, columns, preset.defaults)


def _column(
    source: Input, field: str, preset: Preset, existing: Sequence[str], asked: Mapping[str, str]
) -> str | None:
    """The column that fills a field; None if none does."""
    if field in asked:
        column = asked[field] or None
        if column is not None and column not in existing:
            problem = unknown("column", column, existing)
            raise SourceError(f"{source.url}: --columns {field}={column}: {problem}")
        return column
    tried = preset.columns.get(field, (field,) if field in PAIR_FIELDS else ())
    return next((column for column in tried if column in existing), None)


def _preset(source: Input, existing: Sequence[str], asked: Mapping[str, str]) -> Preset:
    name = source.format.name
    if "preset" in asked:
        preset = preset_named(asked["preset"])
        if name not in preset.formats:
            raise SourceError(
                f"{source.url}: preset {preset.name} reads {', '.join(preset.formats)}, "
                f"but this looks like {name}"
            )
        return preset
    readable = [preset for preset in presets().values() if name in preset.formats]
    for preset in readable:
        # A field named on the command line stands for the columns by which the preset knows it; but
        # a special preset must still be recognised by something.
        known = {column for field in asked for column in preset.columns.get(field, ())}
        left = set(preset.requires) - known
        special = preset.name != "native" and preset.requires
        if left <= set(existing) and (left or not special):
            return preset
    wanted = "; ".join(f"{p.name} needs {', '.join(p.requires)}" for p in readable)
    raise SourceError(
        f"{source.url}: its columns ({_listed(existing)}) fit no preset ({wanted}); "
        "say which columns to use with --columns FIELD=COLUMN,..."
    )


def _listed(existing: Sequence[str]) -> str:
    shown = [name for name in existing if "." not in name] or list(existing)
    return f"columns {', '.join(shown)}" if shown else "no columns"
