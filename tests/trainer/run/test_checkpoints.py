"""Checkpoint folders: whole or not there, the last N, and what a full disk leaves."""

from __future__ import annotations

import errno
import os
import resource

import pytest
import torch
from safetensors.torch import load_file, save_file

from trainer.errors import CheckpointFileError, UsageError
from trainer.run.checkpoints import Checkpoints, Position, read_position, whole_folder


def position(step):
    return Position(step, 10, 4, "settings", "rows", {"loss": 0.1 + 0.2, "rows": 2})


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def writer(number, size=10):
    return lambda folder: save_file({"x": torch.full((size,), number)}, folder / "x.safetensors")


def test_the_last_n_stay_and_positions_come_back_exactly(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints", keep=2)
    assert checkpoints.newest() is None
    for step in (1, 2, 3):
        checkpoints.write(position(step), writer(float(step)))
    assert checkpoints.steps() == [2, 3]
    assert names(checkpoints.folder) == ["step-000002", "step-000003"]
    assert read_position(checkpoints.newest()) == position(3)
    assert load_file(checkpoints.newest() / "x.safetensors")["x"][0] == 3


def test_a_file_too_large_leaves_the_last_checkpoint(tmp_path):
    """A real limit of the kernel, as a quota or a full disk: the write itself fails."""
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.write(position(1), writer(1.0))
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, old[1]))
    try:
        with pytest.raises(CheckpointFileError) as caught:
            checkpoints.write(position(2), writer(2.0, 1_000_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert "step 2 could not be written" in str(caught.value)
    assert "File too large" in str(caught.value)
    assert "step-000001 is intact" in str(caught.value)
    assert names(checkpoints.folder) == ["step-000001"]
    assert load_file(checkpoints.newest() / "x.safetensors")["x"][0] == 1


def test_a_disk_that_is_full_when_the_data_is_synced(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.write(position(1), writer(1.0))

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointFileError, match="No space left on device"):
        checkpoints.write(position(2), writer(2.0))
    assert names(checkpoints.folder) == ["step-000001"]


def test_remains_of_a_killed_process_are_no_checkpoints(tmp_path):
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.write(position(1), writer(1.0))
    (checkpoints.folder / ".step-000002.tmp").mkdir()
    (checkpoints.folder / ".step-000000.old").mkdir()
    assert checkpoints.steps() == [1]
    checkpoints.clear_remains()
    assert names(checkpoints.folder) == ["step-000001"]


def test_a_damaged_position_says_what_to_do(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    folder = checkpoints.write(position(7), writer(1.0))
    for text in ("{", '{"step": 7}'):
        (folder / "position.json").write_text(text)
        with pytest.raises(CheckpointFileError, match="remove that folder"):
            read_position(folder)


def test_a_folder_is_never_written_over(tmp_path):
    with whole_folder(tmp_path / "a") as folder:
        (folder / "x").write_text("1")
    with (
        pytest.raises(UsageError, match="exists; remove it"),
        whole_folder(tmp_path / "a") as folder,
    ):
        (folder / "x").write_text("2")
    assert (tmp_path / "a" / "x").read_text() == "1"
