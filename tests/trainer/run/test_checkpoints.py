"""Checkpoint folders: whole or not there, the last N, and what a full disk leaves."""

from __future__ import annotations

import errno
import json
import os
import re
import resource

import pytest
import torch
from safetensors.torch import load_file, save_file

from trainer.errors import CheckpointFileError, UsageError
from trainer.run.checkpoints import (
    Checkpoints,
    Position,
    damage,
    read_position,
    whole_folder,
)


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


def two(tmp_path):
    """Two checkpoints of two files and a record each."""
    checkpoints = Checkpoints(tmp_path / "checkpoints")

    def content(folder):
        writer(1.0)(folder)
        (folder / "weights").mkdir()
        (folder / "weights" / "adapter_config.json").write_text('{"r": 4}')

    for step in (1, 2):
        checkpoints.write(position(step), content)
    return checkpoints


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


FILES = ("x.safetensors", "weights/adapter_config.json", "position.json")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("harm", [cut, flip, os.remove])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_taken(tmp_path, caplog, name, harm):
    checkpoints = two(tmp_path)
    assert checkpoints.newest_whole(set_aside=True) == checkpoints.at(2)
    harm(checkpoints.at(2) / name)
    assert checkpoints.newest_whole(set_aside=False) == checkpoints.at(1)
    assert not caplog.text.partition(name)[0].count("\n")
    assert checkpoints.newest_whole(set_aside=True) == checkpoints.at(1)
    (first, second) = (record.getMessage() for record in caplog.records)
    assert first.startswith(f"checkpoint step-000002 is damaged ({name} ")
    assert "kept as damaged-step-000002" in second
    assert names(checkpoints.folder) == ["damaged-step-000002", "step-000001"]
    # Its steps are done again, and their checkpoint takes the place.
    checkpoints.write(position(2), writer(2.0))
    assert checkpoints.newest_whole(set_aside=True) == checkpoints.at(2)


@pytest.mark.parametrize("name", FILES)
def test_every_bit_counts(tmp_path, name):
    checkpoints = two(tmp_path)
    path = checkpoints.at(2) / name
    whole = path.read_bytes()
    for place in range(len(whole)):
        data = bytearray(whole)
        data[place] ^= 1 << place % 8
        path.write_bytes(data)
        assert damage(checkpoints.at(2)) is not None, place
    path.write_bytes(whole)
    assert damage(checkpoints.at(2)) is None


def test_other_damage_is_seen_too(tmp_path):
    checkpoints = two(tmp_path)
    (checkpoints.at(2) / "weights" / "model.safetensors").write_bytes(b"x")
    assert damage(checkpoints.at(2)) == "weights/model.safetensors is not one of its files"
    (checkpoints.at(2) / ".nfs0001").write_bytes(b"x")
    assert damage(checkpoints.at(1)) is None
    checkpoints.at(1).rename(checkpoints.at(3))
    assert damage(checkpoints.at(3)) == "position.json is of step 1"
    record = checkpoints.at(2) / "position.json"
    record.write_text(json.dumps(json.loads(record.read_text())["position"]))
    assert "of an earlier version, which noted no digests" in str(damage(checkpoints.at(2)))


def test_without_a_whole_checkpoint_one_line_says_so(tmp_path):
    checkpoints = two(tmp_path)
    cut(checkpoints.at(1) / "x.safetensors")
    (checkpoints.at(2) / "position.json").write_text("[]")
    with pytest.raises(CheckpointFileError) as caught:
        checkpoints.newest_whole(set_aside=True)
    message = str(caught.value)
    assert "\n" not in message
    assert re.search(r"step-000002: position\.json .*; step-000001: x\.safetensors has", message)
    assert "restore one, or remove that folder" in message
    assert checkpoints.steps() == [1, 2]
    with pytest.raises(CheckpointFileError, match=r"position\.json cannot be read"):
        read_position(checkpoints.at(2))


def test_a_folder_is_never_written_over(tmp_path):
    with whole_folder(tmp_path / "a") as folder:
        (folder / "x").write_text("1")
    with (
        pytest.raises(UsageError, match="exists; remove it"),
        whole_folder(tmp_path / "a") as folder,
    ):
        (folder / "x").write_text("2")
    assert (tmp_path / "a" / "x").read_text() == "1"
