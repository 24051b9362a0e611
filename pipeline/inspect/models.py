"""The model files that a recipe needs: which, where, how large; fetches them on request.

Knows ids and paths; needs no torch. `python -m pipeline models list|pull RECIPE`.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.recipes.build import RecipeBook
from stages.backends.weights.checkpoints import Checkpoint, CheckpointError, HasCheckpoints, locate
from stages.base import BackendSettings, Stage

log = logging.getLogger(__name__)

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Needed:
    """A checkpoint and who needs it."""

    checkpoint: Checkpoint
    """The checkpoint."""
    stages: tuple[str, ...]
    """Stages that load it, as "recipe.stage"."""

    @property
    def pinned(self) -> bool:
        """Whether no revision is left open: a commit is given, or a path, which has none.

        A path's content is not checked: whoever put it there must keep it the same on every
        machine. Of small files that decide rows a run remembers the content id.
        """
        revision = self.checkpoint.revision or ""
        return self.checkpoint.on_disk or bool(_COMMIT.fullmatch(revision))


@dataclass(frozen=True)
class Found:
    """Where a checkpoint is, or why it is not there."""

    needed: Needed
    """What was looked for."""
    path: Path | None
    """Folder or file; None where it is missing."""
    size: int
    """Bytes of its files."""
    problem: str = ""
    """One line, with what to do."""


def backends_of(book: RecipeBook) -> Iterator[tuple[str, BackendSettings[Any]]]:
    """Every backend of every stage, and of the pairing, with the stage's name in the placement."""
    for recipe in book.recipes:
        for link in recipe.links:
            if isinstance(link.stage, Stage):
                for backend in link.stage.backends():
                    yield f"{recipe.name}.{link.name}", backend
    if book.pairing is not None:
        yield f"{book.name}.pairing", book.pairing.embedder


def needed_models(book: RecipeBook) -> list[Needed]:
    """The checkpoints of a recipe, each once, in the order in which they are first used."""
    users: dict[Checkpoint, list[str]] = {}
    for stage, backend in backends_of(book):
        if isinstance(backend, HasCheckpoints):
            for checkpoint in backend.checkpoints():
                users.setdefault(checkpoint, []).append(stage)
    return [Needed(checkpoint, tuple(stages)) for checkpoint, stages in users.items()]


def find(needed: Needed, *, download: bool = False) -> Found:
    """Where the checkpoint is; fetched from the hub first with `download`."""
    try:
        path = locate(needed.checkpoint, download=download)
    except CheckpointError as error:
        # The lines that show it begin with the model's name.
        return Found(needed, None, 0, str(error).removeprefix(str(needed.checkpoint)).lstrip(": "))
    files = [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]
    size = sum(file.stat().st_size for file in files)
    if not size:
        return Found(needed, None, 0, f"{needed.checkpoint}: {path} holds no files")
    return Found(needed, path, size)


def describe_found(found: Found) -> str:
    """One line for a person."""
    needed = found.needed
    users = ", ".join(needed.stages)
    if found.path is None:
        return f"MISSING  {needed.checkpoint} ({users}): {found.problem}"
    # The hub's cache names the folder of a snapshot by its commit.
    commits = [part for part in found.path.parts if _COMMIT.fullmatch(part)]
    how = f"; to keep it: revision {commits[-1]}" if commits else ""
    pin = "" if needed.pinned else f"  [revision not pinned to a commit{how}]"
    return f"{size_text(found.size):>9}  {needed.checkpoint} ({users}): {found.path}{pin}"


def size_text(size: int) -> str:
    """Bytes for a person: "1.2 GB"."""
    value = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def look(book: RecipeBook, *, download: bool) -> tuple[str, bool]:
    """A line for each model of the recipe, and whether all are there; fetches with `download`."""
    models = needed_models(book)
    if not models:
        return f"recipe {book.name} needs no model files", True
    lines, whole = [], True
    for needed in models:
        if download and not needed.pinned:
            log.warning(
                "%s: %s is not pinned to a commit; another day it may be another model",
                ", ".join(needed.stages),
                needed.checkpoint,
            )
        found = find(needed, download=download)
        whole &= found.path is not None
        lines.append(describe_found(found))
    return "\n".join(lines), whole


def sizes_by_stage(found: Sequence[Found]) -> dict[str, int]:
    """Bytes of weights that each stage loads."""
    sizes: dict[str, int] = {}
    for item in found:
        for stage in item.needed.stages:
            sizes[stage] = sizes.get(stage, 0) + item.size
    return sizes
