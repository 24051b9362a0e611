from __future__ import annotations

import os
from pathlib import Path

import pytest

from schemas.files import Folder


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder.at(str(tmp_path / "a" / "b"))


def test_what_is_written_is_read(folder):
    assert not folder.exists("x/y.bin")
    folder.write("x/y.bin", b"one")
    folder.write("x/y.bin", b"two")
    assert folder.read("x/y.bin") == b"two"
    assert folder.names("x") == ["y.bin"]
    assert folder.names("nowhere") == []
    folder.write_json("z.json", {"ä": [1, None]})
    assert folder.read_json("z.json") == {"ä": [1, None]}
    folder.move("z.json", "w.json")
    folder.delete("w.json")
    folder.delete("w.json")
    assert folder.names() == []


def test_what_json_has_no_word_for_is_refused(folder):
    folder.write_json("z.json", [1.0])
    for number in (float("nan"), float("inf"), -float("inf")):
        with pytest.raises(ValueError, match=r"z\.json cannot be written as JSON"):
            folder.write_json("z.json", {"deep": [number]})
    assert folder.read_json("z.json") == [1.0]


def test_a_failed_write_leaves_the_old_file_and_no_trace(folder, monkeypatch):
    folder.write("f", b"old")
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space")))
    with pytest.raises(OSError, match="No space"):
        folder.write("f", b"new")
    assert folder.read("f") == b"old"
    assert [path.name for path in Path(folder.url).iterdir()] == ["f"]


def test_a_reader_never_sees_a_part_of_a_file(folder):
    folder.write("f", b"old")
    with folder.replacing("f") as temporary:
        temporary.write_bytes(b"half of the n")
        assert folder.read("f") == b"old"
        assert [n for n in folder.names() if not n.startswith(".")] == ["f"]
        temporary.write_bytes(b"the new content")
    assert folder.read("f") == b"the new content"


def test_urls_keep_their_scheme():
    assert Folder.at("s3://bucket/run/").join("parts") == "s3://bucket/run/parts"
    assert not Folder.at("s3://bucket/run").local
