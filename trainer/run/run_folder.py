"""The folder of a run: one process group at a time, and always the same run.

run.json              what the run is: settings, model, rows, versions
checkpoints/          see `trainer.run.checkpoints`
metrics.jsonl, tensorboard/
final/                the result: weights/, and a copy of run.json
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from schemas.files import Folder
from trainer.errors import UsageError
from trainer.run.merge import FINAL
from trainer.settings import Settings

CARD = "run.json"
_LOCK = ".lock"
_FREE = frozenset({"about", "machine", "keep"})
"""Settings that may change between two attempts at a run; see `Settings.digest`."""
_MICRO_BATCH = "settings.machine.micro_batch"
_PACKAGES = ("nearmiss", "torch", "transformers", "peft", "accelerate")


@dataclass(frozen=True)
class RunFolder:
    """A run's folder, which must be on a mounted file system."""

    path: Path
    """The folder."""

    @property
    def final(self) -> Path:
        """The result; it is there once the run is complete."""
        return self.path / FINAL

    def card(self) -> dict[str, Any] | None:
        """The card of the run in this folder; None if there is none."""
        folder = Folder.at(str(self.path))
        if not folder.exists(CARD):
            return None
        card: dict[str, Any] = folder.read_json(CARD)
        return card

    def settings(self) -> Settings:
        """The settings of the run in this folder; UsageError if there is none."""
        card = self.card()
        if card is None:
            raise UsageError(f"{self.path} is not a run of `python -m trainer train`: no {CARD}")
        return _settings(card)

    def claim(self, card: Mapping[str, Any]) -> None:
        """Write the card of a new run, or check that the folder holds the same run.

        UsageError names what differs, if what decides the result does.
        """
        old = self.card()
        if old is not None and (different := _differences(old, card)):
            raise UsageError(
                f"{self.path} holds another run: {'; '.join(different[:5])}; "
                "choose another --output, or repeat the earlier command"
            )
        Folder.at(str(self.path)).write_json(CARD, card)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock against other processes on this machine, or on a file system with locks."""
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / _LOCK).open("w") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise UsageError(
                    f"another process trains into {self.path}; wait for it, or choose another "
                    "--output"
                ) from None
            yield


def versions() -> dict[str, str]:
    """Installed versions of what a result depends on."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # a job's working directory is not installed
            found[package] = "unknown"
    return found


def _differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    was, now = (
        _flat({key: card[key] for key in ("settings", "model", "revision", "rows")})
        for card in (old, json.loads(json.dumps(new)))
    )
    bound = {_MICRO_BATCH} if _settings(new).micro_batch_decides else set()
    return [
        f"{key.removeprefix('settings.')} was {was.get(key)!r}, is {now.get(key)!r}"
        for key in sorted(was.keys() | now.keys())
        if was.get(key) != now.get(key) and (key in bound or not _is_free(key))
    ]


def _settings(card: Mapping[str, Any]) -> Settings:
    return Settings.model_validate(card["settings"])


def _is_free(key: str) -> bool:
    section, _, setting = key.partition(".")
    return section == "settings" and setting.partition(".")[0] in _FREE


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {prefix: value}
    found: dict[str, Any] = {}
    for key, item in value.items():
        found.update(_flat(item, f"{prefix}.{key}" if prefix else key))
    return found
