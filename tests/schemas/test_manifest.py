from __future__ import annotations

from dataclasses import replace

import pytest

from schemas.files import Folder
from schemas.geometry import Box, Mask
from schemas.manifest import delete_seeds, read_seeds, seeds_path, write_seeds
from schemas.records import Drop, ImageRef, Reason, Region, SeedRef

FULL = SeedRef(
    seed_id="a",
    run_seed=3,
    image=ImageRef("x.parquet", 7, "image", None),
    prompt="What is it?",
    chosen="A dog.",
    rejected="A cat.",
    regions=(Region("dog", Box(0, 1, 2, 3), Mask(2, 2, (1, 3)), ("brown",)),),
    source="x.parquet row 7",
    license="CC0",
    defect=Drop(Reason.BAD_TEXT, "why"),
)
BARE = SeedRef("b", 3, ImageRef(None, bytes=b"\x00\xff"), "", "", None, (), "", None)


def test_a_shard_comes_back_as_it_was_written(tmp_path):
    folder = Folder.at(str(tmp_path))
    write_seeds(folder, 0, [FULL, BARE])
    assert read_seeds(folder, 0) == [FULL, BARE]
    assert (tmp_path / "seeds" / "seeds-00000.parquet").exists()


def test_writing_again_replaces_and_leaves_no_other_file(tmp_path):
    folder = Folder.at(str(tmp_path))
    write_seeds(folder, 2, [FULL])
    write_seeds(folder, 2, [replace(BARE, prompt="new")])
    assert [seed.prompt for seed in read_seeds(folder, 2)] == ["new"]
    assert [p.name for p in (tmp_path / "seeds").iterdir()] == ["seeds-00002.parquet"]


def test_a_shard_that_was_never_written_is_not_found(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_seeds(Folder.at(str(tmp_path)), 0)


def test_names_sort_as_numbers():
    assert seeds_path(7) == "seeds/seeds-00007.parquet"
    assert sorted([seeds_path(10), seeds_path(9)]) == [seeds_path(9), seeds_path(10)]


def test_delete_removes_the_manifest_alone(tmp_path):
    folder = Folder.at(str(tmp_path))
    delete_seeds(folder)  # nothing there: nothing happens
    write_seeds(folder, 0, [FULL])
    write_seeds(folder, 1, [BARE])
    folder.write("run.json", b"{}")
    delete_seeds(folder)
    assert list((tmp_path / "seeds").iterdir()) == []
    assert folder.exists("run.json")
