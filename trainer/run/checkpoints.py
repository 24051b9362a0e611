"""Checkpoint folders, written completely or not at all. Knows folders, not models.

`OUT/checkpoints/step-000100/` holds weights, optimizer state and position; see
`trainer.model.weights`.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from safetensors import SafetensorError

from trainer.errors import CheckpointFileError, UsageError

log = logging.getLogger(__name__)

POSITION = "position.json"
_NAME = re.compile(r"step-(\d{6,})")


@dataclass(frozen=True, slots=True)
class Position:
    """How far a run has come."""

    step: int
    """Optimizer steps done."""
    num_steps: int
    """Optimizer steps of the whole run."""
    num_rows: int
    """Rows of an epoch."""
    settings: str
    """Digest of the settings that decide the result."""
    rows: str
    """Digest of the rows, in order."""
    sums: dict[str, float]
    """Metrics since the last written line, summed over rows; see `trainer.run.metrics`."""


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """The checkpoints of a run."""

    folder: Path
    """Their folder."""
    keep: int = 2
    """How many are kept."""

    def steps(self) -> list[int]:
        """Steps with a whole checkpoint, in order."""
        if not self.folder.is_dir():
            return []
        found = (_NAME.fullmatch(path.name) for path in self.folder.iterdir())
        return sorted(int(match[1]) for match in found if match)

    def newest(self) -> Path | None:
        """The folder of the newest checkpoint; None if there is none."""
        steps = self.steps()
        return self.at(steps[-1]) if steps else None

    def at(self, step: int) -> Path:
        """The folder of a step."""
        return self.folder / f"step-{step:06d}"

    def write(self, position: Position, content: Callable[[Path], None]) -> Path:
        """Write a checkpoint whole, then remove those that are too old; returns its folder.

        `content` fills the folder it is given. Raises CheckpointFileError, the older checkpoints
        being intact, when the disk does not take it.
        """
        final = self.at(position.step)
        try:
            with whole_folder(final) as temporary:
                content(temporary)
                text = json.dumps(asdict(position), indent=1) + "\n"
                (temporary / POSITION).write_text(text, "utf-8")
        except (OSError, SafetensorError) as error:
            raise CheckpointFileError(self._unwritten(position.step, error)) from error
        for step in self.steps()[: -self.keep]:
            _remove(self.at(step))
        return final

    def clear_remains(self) -> None:
        """Remove folders that a killed process left half written or half removed."""
        if self.folder.is_dir():
            for path in self.folder.iterdir():
                if path.name.startswith("."):
                    shutil.rmtree(path, ignore_errors=True)

    def _unwritten(self, step: int, error: Exception) -> str:
        cause = " ".join(str(error).split())
        free = shutil.disk_usage(self.folder).free / 2**30
        last = self.newest()
        return (
            f"the checkpoint of step {step} could not be written to {self.folder} "
            f"({free:.1f} GiB free): {cause}; "
            + (f"{last.name} is intact" if last else "there is none before it")
            + "; make room, then the same command resumes from there"
        )


def read_position(folder: Path) -> Position:
    """The position of a checkpoint; CheckpointFileError where the file is damaged."""
    try:
        content = json.loads((folder / POSITION).read_text("utf-8"))
        return Position(**{field.name: content[field.name] for field in fields(Position)})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointFileError(
            f"checkpoint {folder} cannot be read ({type(error).__name__}: {error}); "
            "remove that folder, then the same command resumes from the one before"
        ) from error


@contextmanager
def whole_folder(final: Path) -> Iterator[Path]:
    """A temporary folder that becomes `final`, safe against power loss, if the block ends well.

    If the block raises, the temporary folder is removed. A `final` that is there is an error.
    """
    if final.exists():
        raise UsageError(f"{final} exists; remove it, or choose another folder")
    temporary = final.with_name(f".{final.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for path in temporary.rglob("*"):
            _sync(path)
        _sync(temporary)
        temporary.rename(final)
        _sync(final.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def _remove(folder: Path) -> None:
    """Remove a folder so that a kill halfway leaves nothing that looks like a checkpoint."""
    doomed = folder.with_name(f".{folder.name}.old")
    folder.rename(doomed)
    shutil.rmtree(doomed)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
