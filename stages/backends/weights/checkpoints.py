"""Where a model's files are: a folder, a file, or a pinned revision on the Hugging Face hub.

Knows paths and hub ids, not tensors: the doctor and `models pull` need no torch.
"""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable


class CheckpointError(ValueError):
    """A model's files are missing, gated, damaged or of another architecture."""


@dataclass(frozen=True)
class Checkpoint:
    """The files of one model that a backend needs."""

    model: str
    """A folder, a file, or a hub id: "facebook/dinov2-large"."""
    revision: str | None = None
    """Branch, tag or commit on the hub; None for its main branch. No meaning for a path."""
    patterns: tuple[str, ...] = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")
    """Which files of a hub repository are needed."""
    source: str | None = None
    """Where to get a file that is on no hub; the model is a path then, whatever it looks like."""

    @property
    def on_disk(self) -> bool:
        """Whether it is a place on disk rather than on the hub."""
        return self.source is not None or is_path(self.model)

    def __str__(self) -> str:
        """The model and its revision, for messages."""
        return self.model if self.revision is None else f"{self.model}@{self.revision}"


@runtime_checkable
class HasCheckpoints(Protocol):
    """A backend with weights."""

    def checkpoints(self) -> Sequence[Checkpoint]:
        """What `load` reads."""


def is_path(model: str) -> bool:
    """Whether `model` names a place on disk rather than a hub id."""
    return (
        model.startswith(("/", ".", "~"))
        or Path(model).exists()
        or model.count("/") > 1
        or model.endswith((".pt", ".pth", ".safetensors", ".txt"))
    )


def locate(checkpoint: Checkpoint, *, download: bool = True) -> Path:
    """The folder (or file) that holds the checkpoint, fetched into the hub's cache if need be.

    HF_HUB_OFFLINE is respected. Raises CheckpointError in one line: what is missing, and how to
    get it.
    """
    return _on_disk(checkpoint) if checkpoint.on_disk else _on_hub(checkpoint, download=download)


def _on_disk(checkpoint: Checkpoint) -> Path:
    path = Path(checkpoint.model).expanduser()
    if path.exists():
        return path
    if checkpoint.source is not None:
        raise CheckpointError(
            f"no file at {path}; get it from {checkpoint.source}, and give its path"
        )
    raise CheckpointError(
        f"no model at {path}; give an existing folder or file, or a hub id such as "
        "facebook/dinov2-large"
    )


def _on_hub(checkpoint: Checkpoint, *, download: bool) -> Path:
    try:
        import huggingface_hub  # only a model from the hub needs it
        from huggingface_hub import constants, errors
    except ImportError:
        raise CheckpointError(
            f"{checkpoint} is to come from the hub, but huggingface_hub is not installed; "
            "pip install 'nearmiss[hub]'"
        ) from None
    offline = bool(constants.HF_HUB_OFFLINE) or not download
    try:
        folder = huggingface_hub.snapshot_download(
            checkpoint.model,
            revision=checkpoint.revision,
            allow_patterns=list(checkpoint.patterns),
            local_files_only=offline,
        )
    except errors.GatedRepoError:
        raise CheckpointError(
            f"{checkpoint} is gated: accept its terms at https://huggingface.co/"
            f"{checkpoint.model} and set HF_TOKEN to a token of that account"
        ) from None
    except errors.RevisionNotFoundError:
        raise CheckpointError(
            f"{checkpoint}: the hub has no such revision of {checkpoint.model}; give an existing "
            "branch, tag or commit"
        ) from None
    except errors.RepositoryNotFoundError:
        raise CheckpointError(
            f"{checkpoint}: the hub has no such model, or it is private; check the id, or set "
            "HF_TOKEN"
        ) from None
    except errors.HFValidationError:
        raise CheckpointError(
            f"{checkpoint} is neither an existing folder or file nor a hub id such as "
            "facebook/dinov2-large"
        ) from None
    except OSError as error:
        if error.errno is not None and not isinstance(error, ConnectionError | TimeoutError):
            raise CheckpointError(
                f"{checkpoint} cannot be kept in the cache {constants.HF_HUB_CACHE}: "
                f"{error.strerror}; put that right, or set HF_HOME to a folder elsewhere"
            ) from None
        why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the hub was not reached"
        raise CheckpointError(
            f"{checkpoint} is not in the cache {constants.HF_HUB_CACHE} and {why} "
            f"({type(error).__name__}); where there is a network, fetch it with "
            "`python -m pipeline models pull RECIPE`, or give a folder"
        ) from None
    return Path(folder)


UNREADABLE = (OSError, RuntimeError, ValueError, KeyError, EOFError, pickle.UnpicklingError)
"""What `torch.load` and the like raise for files that are empty, cut off or something else."""


def first_line(error: BaseException) -> str:
    """What an error says, in a line of at most 200 characters; its class where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def require_model_type(folder: Path, allowed: Collection[str], checkpoint: Checkpoint) -> str:
    """The `model_type` of the folder's config.json; CheckpointError unless it is `allowed`."""
    config = folder / "config.json"
    if not config.is_file():
        raise CheckpointError(f"{checkpoint}: {folder} has no config.json; is it a model folder?")
    try:
        found = json.loads(config.read_text("utf-8")).get("model_type")
    except (ValueError, AttributeError):
        raise CheckpointError(f"{checkpoint}: {config} is not a model's configuration") from None
    if found not in allowed:
        raise CheckpointError(
            f"{checkpoint} is a model of type {found!r}; {' or '.join(sorted(allowed))} is needed"
        )
    return str(found)


def hub_token_is_set() -> bool:
    """Whether a hub token is in the environment or saved by `hf auth login`."""
    home = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
    return bool(os.environ.get("HF_TOKEN")) or (home / "token").is_file()
