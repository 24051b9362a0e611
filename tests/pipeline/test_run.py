from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import datasets
import pytest
from PIL import Image as PilImage

from pipeline.errors import UsageError
from pipeline.inspect.status import status
from pipeline.run import Exit, run
from pipeline.sources import open_source
from tests.pipeline.harness import Bench, Trouble


@pytest.mark.ray
@pytest.mark.parametrize("split", [pytest.param(False, marks=pytest.mark.faults), True])
def test_with_and_without_ray_the_rows_are_the_same(tmp_path, small_ray, split):
    trouble = Trouble(recipe="demo", split=split)
    here, there = Bench(tmp_path / "here"), Bench(tmp_path / "there")
    assert run(here.request(trouble, local=True)) == Exit.COMPLETE
    assert run(there.request(trouble)) == Exit.COMPLETE
    assert here.rows() == there.rows()
    data = [sorted((b.run_dir / "data").iterdir()) for b in (here, there)]
    assert [p.read_bytes() for p in data[0]] == [p.read_bytes() for p in data[1]]
    recipes = {row["recipe"] for row in here.rows() if row["status"] == "pair"}
    assert recipes == {"removal-cpu", "recolor-cpu", "count-cpu", "flip", "crop"}


def test_shard_size_and_micro_batch_change_no_row(tmp_path):
    small, large = Bench(tmp_path / "small"), Bench(tmp_path / "large")
    assert run(small.request(Trouble(shard_size=3, micro_batch=1), local=True)) == Exit.COMPLETE
    assert run(large.request(Trouble(shard_size=16, micro_batch=7), local=True)) == Exit.COMPLETE
    assert small.rows() == large.rows()


def test_the_seed_changes_the_rows(tmp_path):
    one, two = Bench(tmp_path / "one"), Bench(tmp_path / "two")
    assert run(one.request(Trouble(), local=True)) == Exit.COMPLETE
    assert run(replace(two.request(Trouble(), local=True), seed=1)) == Exit.COMPLETE
    assert {r["pair_id"] for r in one.rows()}.isdisjoint(r["pair_id"] for r in two.rows())


def test_what_a_run_leaves(bench):
    assert run(bench.request(Trouble(recipe="demo"), local=True)) == Exit.COMPLETE
    names = {path.name for path in bench.run_dir.iterdir()}
    assert names == {
        "README.md", "data", "parts", "progress.json", "report.html", "run.json", "seeds",
    }  # fmt: skip
    text, complete = status(str(bench.run_dir), as_json=True)
    facts = json.loads(text)
    pairs = [row for row in bench.rows() if row["status"] == "pair"]
    assert complete
    assert facts["complete"]
    assert (facts["num_seeds"], facts["num_pairs"]) == (16, len(pairs))
    assert facts["num_drops"] == len(bench.rows()) - len(pairs)
    progress = json.loads((bench.run_dir / "progress.json").read_text())
    last = [s for s in progress["stages"] if s["stage"] == "masker"]
    assert sum(s["num_out"] for s in last) == len(pairs)
    rows = datasets.load_dataset(
        str(bench.run_dir), split="train", cache_dir=str(bench.folder / "cache")
    )
    assert rows["pair_id"][:] == [row["pair_id"] for row in pairs]
    for row in rows:
        assert isinstance(row["chosen_image"], PilImage.Image)
        assert row["chosen_image"].size == row["rejected_image"].size
        for side in ("chosen", "counterfactual"):
            assert all(0 <= a < b <= len(row[side]) for a, b in row[f"{side}_spans"])


def test_a_finished_run_is_left_as_it_is(bench):
    assert run(bench.request(Trouble(), local=True)) == Exit.COMPLETE
    parts = {p.name: p.stat().st_mtime_ns for p in (bench.run_dir / "parts").iterdir()}
    data = {p.name: p.read_bytes() for p in (bench.run_dir / "data").iterdir()}
    assert run(bench.request(Trouble(), local=True)) == Exit.COMPLETE
    assert {p.name: p.stat().st_mtime_ns for p in (bench.run_dir / "parts").iterdir()} == parts
    assert {p.name: p.read_bytes() for p in (bench.run_dir / "data").iterdir()} == data


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seed": 5}, "another seed: seed 0 .now 5"),
        ({"limit": 7}, "another limit: limit None .now 7"),
        ({"book": None}, "another recipe: recipe crop .now flip"),
        ({"source": None}, "another input: input_digest"),
    ],
)
def test_a_run_directory_of_something_else_is_refused(bench, tmp_path, change, said):
    request = bench.request(Trouble(), local=True)
    assert run(request) == Exit.COMPLETE
    if "book" in change:
        change = {"book": bench.request(Trouble(recipe="flip")).book}
    if "source" in change:
        change = {"source": Bench(tmp_path / "other", num=17).request(Trouble()).source}
    with pytest.raises(UsageError, match=said):
        run(replace(request, **change))


def test_an_output_that_cannot_be_written(bench):
    request = bench.request(Trouble(), local=True)
    Path(bench.folder, "file").write_text("in the way")
    with pytest.raises(UsageError, match="file/run: cannot be written"):
        run(replace(request, output=str(bench.folder / "file" / "run")))


def test_limit_takes_the_first_rows(bench):
    assert run(replace(bench.request(Trouble(), local=True), limit=5)) == Exit.COMPLETE
    assert [row["seed_id"] for row in bench.rows()] == bench.ids[:5]


def test_an_input_that_was_moved_is_read_again(bench, tmp_path):
    """Parts stay; what is left is read from where the images are now."""
    request = bench.request(Trouble(), local=True)
    assert run(request) == Exit.COMPLETE
    before = bench.rows()
    (bench.run_dir / "parts" / "part-00001.parquet").unlink()
    kept = (bench.run_dir / "parts" / "part-00000.parquet").stat().st_mtime_ns
    Path(bench.input).parent.rename(tmp_path / "elsewhere")
    moved = replace(request, source=open_source(str(tmp_path / "elsewhere" / "seeds.jsonl")))
    assert run(moved) == Exit.COMPLETE
    assert bench.rows() == before
    assert (bench.run_dir / "parts" / "part-00000.parquet").stat().st_mtime_ns == kept


def test_a_scan_of_a_moved_input_that_was_interrupted_is_repeated(bench, monkeypatch):
    request = bench.request(Trouble(), local=True)
    assert run(request) == Exit.COMPLETE
    moved = replace(
        request, source=open_source(bench.input, image_root=str(bench.folder / "input"))
    )

    def interrupted(_source, folder, *_):
        folder.delete("seeds/seeds-00002.parquet")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("pipeline.prepare.write_manifest", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(moved)
    assert run(request) == Exit.COMPLETE
    bench.check_all_accounted_for()
