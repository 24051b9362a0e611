"""Checkpoint folders, written completely or not at all. Knows folders, not models.

`OUT/checkpoints/step-000100/` holds weights and optimizer state (`trainer.model.weights`), and
`position.json`: the position, size and digest of every other file, and a digest of both.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from schemas.ids import content_id
from trainer.errors import CheckpointFileError, UsageError
from trainer.run.digests import difference, digests

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

    def newest_whole(self, *, set_aside: bool) -> Path | None:
        """The newest checkpoint of which every byte is what was written; None if there is none.

        Newer ones that are damaged are logged, and renamed if they are to be `set_aside`, since
        their steps will be written again. CheckpointFileError where all are damaged.
        """
        damaged: dict[Path, str] = {}
        for step in reversed(self.steps()):
            if (what := damage(self.at(step))) is not None:
                damaged[self.at(step)] = what
                continue
            for folder, about in damaged.items():
                other = folder.with_name(f"damaged-{folder.name}")
                kept = f"it is kept as {other.name}; " if set_aside else ""
                log.warning(
                    "checkpoint %s is damaged (%s); %s%s is whole and is taken",
                    *(folder.name, about, kept, self.at(step).name),
                )
                if set_aside:
                    shutil.rmtree(other, ignore_errors=True)
                    folder.rename(other)
            return self.at(step)
        if damaged:
            each = "; ".join(f"{folder.name}: {what}" for folder, what in damaged.items())
            raise CheckpointFileError(
                f"no checkpoint in {self.folder} is whole ({each}); restore one, or remove "
                "that folder, then the same command begins again"
            )
        return None

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
                record = {"position": asdict(position), "files": digests(temporary)}
                (temporary / POSITION).write_bytes(_text(record))
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
    """The position of a checkpoint; CheckpointFileError where its record is damaged."""
    try:
        return Position(**_record(folder)["position"])
    except (ValueError, TypeError) as error:
        raise CheckpointFileError(f"checkpoint {folder} cannot be read: {error}") from error


def damage(folder: Path) -> str | None:
    """What of a checkpoint is not as it was written, in words; None if nothing. Reads all of it."""
    try:
        record = _record(folder)
    except ValueError as error:
        return str(error)
    if folder.name != f"step-{record['position']['step']:06d}":
        return f"{POSITION} is of step {record['position']['step']}"
    return difference(folder, record["files"], ignoring=POSITION)


def _record(folder: Path) -> dict[str, Any]:
    """What `write` noted; ValueError, in words, where a byte of it is not what was written."""
    try:
        data = (folder / POSITION).read_bytes()
        content = json.loads(data)
        record = {"position": content["position"], "files": content["files"]}
    except FileNotFoundError:
        raise ValueError(f"{POSITION} is missing") from None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ValueError(
            f"{POSITION} cannot be read ({type(error).__name__}): it is damaged, or of an earlier "
            "version, which noted no digests"
        ) from error
    if data != _text(record):
        raise ValueError(f"{POSITION} is not what was written: its digest differs")
    return record


def _text(record: Mapping[str, Any]) -> bytes:
    """A record with its digest, as it is written."""
    digest = content_id(json.dumps(record, sort_keys=True))
    return (json.dumps({**record, "digest": digest}, indent=1) + "\n").encode()


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
