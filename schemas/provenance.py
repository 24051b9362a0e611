"""How a row was made; stored in every row. Knows neither stages nor images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Step:
    """One stage of the chain that made a row."""

    stage: str
    """Stage name in the recipe."""
    settings: str
    """Its backend and settings, as canonical JSON."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """How a row was made; together with the input row, enough to make it again."""

    recipe_digest: str
    """Content id of the validated recipe, defaults included."""
    run_seed: int
    """The run's seed."""
    schema_version: int
    """`SCHEMA_VERSION` of the code that wrote the row."""
    code_version: str
    """Version of this project, with the commit where it is known."""
    steps: tuple[Step, ...]
    """The chain, in order."""
    params: Mapping[str, str]
    """`Candidate.params`."""
