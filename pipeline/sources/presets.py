"""The table of column-mapping presets, and the mapping chosen for one input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import yaml

from pipeline.sources.formats.errors import SourceError

FIELDS = (
    "id",
    "image",
    "prompt",
    "chosen",
    "rejected",
    "objects",
    "source",
    "license",
    "counterfactual_image",
    "counterfactual",
    "kind",
)
"""Fields of a seed that a column can feed."""
PAIR_FIELDS = ("counterfactual_image", "counterfactual", "kind")
"""Those of the other half, where input rows are pairs."""
IMAGE_FIELDS = ("image", "counterfactual_image")
"""Those whose cells are images."""
REQUIRED = ("image", "chosen")
"""Fields without which no row of the input could become a pair."""


@dataclass(frozen=True, slots=True)
class Preset:
    """One entry of `presets.yaml`; the fields are explained there."""

    name: str
    formats: tuple[str, ...]
    requires: tuple[str, ...]
    columns: Mapping[str, tuple[str, ...]]
    defaults: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Mapped:
    """Which column feeds which field of this input."""

    preset: str
    """Name of the preset."""
    columns: Mapping[str, str]
    """Field -> column that exists in the input; a field without a column is absent."""
    defaults: Mapping[str, str]
    """Field -> text where the row has none."""


@cache
def presets() -> Mapping[str, Preset]:
    """The presets by name, in the order in which they are tried."""
    text = files("pipeline.sources").joinpath("presets.yaml").read_text(encoding="utf-8")
    return {
        name: Preset(
            name,
            tuple(entry["formats"]),
            tuple(entry["requires"]),
            {field: tuple(columns) for field, columns in entry["columns"].items()},
            entry.get("defaults", {}),
        )
        for name, entry in yaml.safe_load(text).items()
    }


def map_columns(
    file: str, input_format: str, existing: Sequence[str], asked: Mapping[str, str]
) -> Mapped:
    """The mapping for an input with these columns; `asked` is what `--columns` said.

    `asked` holds field=column, and `preset` for a preset by name; an empty column means that no
    column feeds the field. `existing` names the columns of the input, nested ones with dots.
    """
    names = [key for key in asked if key != "preset" and key not in FIELDS]
    if names:
        raise SourceError(
            f"--columns {names[0]}=...: unknown field; allowed: {', '.join(('preset', *FIELDS))}"
        )
    preset = _preset(file, input_format, existing, asked)
    columns = {}
    for field in FIELDS:
        if field in asked:
            column: str | None = asked[field] or None
            if column is not None and column not in existing:
                raise SourceError(
                    f"{file}: no column {column!r} for field {field}; it has {_listed(existing)}"
                )
        else:
            column = next(
                (
                    c
                    for c in preset.columns.get(field, (field,) if field in PAIR_FIELDS else ())
                    if c in existing
                ),
                None,
            )
        if column is not None:
            columns[field] = column
        elif field in REQUIRED:
            raise SourceError(
                f"{file}: preset {preset.name} finds no column for field {field}; it has "
                f"{_listed(existing)}; say which with --columns {field}=COLUMN"
            )
    return Mapped(preset.name, columns, preset.defaults)


def _preset(
    file: str, input_format: str, existing: Sequence[str], asked: Mapping[str, str]
) -> Preset:
    table = presets()
    if "preset" in asked:
        name = asked["preset"]
        if name not in table:
            raise SourceError(f"--columns preset={name}: unknown; allowed: {', '.join(table)}")
        if input_format not in table[name].formats:
            raise SourceError(
                f"{file}: preset {name} reads {', '.join(table[name].formats)}, "
                f"but this looks like {input_format}"
            )
        return table[name]
    for preset in table.values():
        # A field named on the command line stands for the columns by which the preset knows it; but
        # a special preset must still be recognised by something.
        known = {column for field in asked for column in preset.columns.get(field, ())}
        left = set(preset.requires) - known
        special = preset.name != "native" and preset.requires
        if input_format in preset.formats and left <= set(existing) and (left or not special):
            return preset
    readable = [p for p in table.values() if input_format in p.formats]
    wanted = "; ".join(f"{p.name} needs {', '.join(p.requires)}" for p in readable)
    raise SourceError(
        f"{file}: its columns ({_listed(existing)}) fit no preset ({wanted}); "
        "say which columns to use with --columns FIELD=COLUMN,..."
    )


def _listed(existing: Sequence[str]) -> str:
    shown = [name for name in existing if "." not in name] or list(existing)
    return f"columns {', '.join(shown)}" if shown else "no columns"
