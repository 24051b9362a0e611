"""The fields of a seed, and which columns of an input fill them. Knows no file and no format."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

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
"""Fields of a seed that a column can fill."""
PAIR_FIELDS = ("counterfactual_image", "counterfactual", "kind")
"""Those of the other half, where input rows are pairs."""
IMAGE_FIELDS = ("image", "counterfactual_image")
"""Those whose cells are images."""
REQUIRED = ("image", "chosen")
"""Fields without which no row of the input could become a pair."""


@dataclass(frozen=True, slots=True)
class Preset:
    """How the columns of one known data set fill the fields."""

    name: str
    """What `--columns preset=` says."""
    formats: tuple[str, ...]
    """Names of the formats that it can be read from."""
    requires: tuple[str, ...]
    """Columns by which it is recognised."""
    columns: Mapping[str, tuple[str, ...]]
    """Field -> columns that may fill it; the first that exists does."""
    defaults: Mapping[str, str]
    """Field -> text where no column fills it, or the cell is null."""


@dataclass(frozen=True, slots=True)
class Mapped:
    """Which column fills which field of this input."""

    preset: str
    """Name of the preset."""
    columns: Mapping[str, str]
    """Field -> column that exists in the input; a field without a column is absent."""
    defaults: Mapping[str, str]
    """Field -> text where the row has none."""
