"""Exports, read back by the loaders that they are for: `datasets`, TRL's collator, plain JSON."""

from __future__ import annotations

import json
from pathlib import Path

import datasets
import numpy as np
import PIL.Image
import pytest

from pipeline.__main__ import main
from pipeline.errors import UsageError
from pipeline.export import FORMATS, Wanted, export_run
from schemas.files import Folder
from schemas.records import Image
from schemas.shards import write_data
from tests.pipeline.fake_runs import image, pair, write_run
from trainer.data.rows import Rows

CHOSEN, REJECTED = "A red stool stands there.", "A green lamp stands there."
COUNTERFACTUAL = "A blue stool stands there."


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> str:
    """Ten pairs; the last two are of one image and have no ordinary wrong answer."""
    outcomes = [pair(f"a{i}", i) for i in range(8)]
    outcomes += [pair("b0", 8, rejected=None), pair("b1", 8, rejected=None)]
    url = write_run(tmp_path_factory.mktemp("export") / "run", outcomes)
    write_data(Folder.at(url), [0], "test")
    return url


def exported(run: str, form: str, folder: Path, **wanted: object) -> Path:
    export_run(run, form, str(folder / form), Wanted(**wanted))
    return folder / form


def loaded(folder: Path, config: str | None = None, split: str = "train") -> datasets.Dataset:
    return datasets.load_dataset(str(folder), config, split=split, cache_dir=str(folder / ".cache"))


def same_image(image: PIL.Image.Image, key: int) -> bool:
    return np.array_equal(np.asarray(image), np.asarray(_decoded(key)))


def _decoded(key: int) -> PIL.Image.Image:
    import io

    return PIL.Image.open(io.BytesIO(image(key).bytes)).convert("RGB")


def test_trl_rows_hold_one_image_and_two_answers(run, tmp_path):
    rows = loaded(exported(run, "trl", tmp_path))
    assert rows.num_rows == 10
    first, last = rows[0], rows[9]
    assert first["prompt"] == [{"role": "user", "content": "What stands there?"}]
    assert first["chosen"] == [{"role": "assistant", "content": CHOSEN}]
    assert first["rejected"] == [{"role": "assistant", "content": REJECTED}]
    assert last["rejected"][0]["content"] == COUNTERFACTUAL  # it has no other wrong answer
    (image,) = first["images"]
    assert same_image(image, 0)


def test_both_sides_mirror_every_row(run, tmp_path):
    rows = loaded(exported(run, "trl", tmp_path, both_sides=True, negative="counterfactual"))
    assert rows.num_rows == 20
    original, near_miss = rows[2], rows[3]
    assert original["rejected"] == near_miss["chosen"]
    assert original["chosen"] == near_miss["rejected"]
    assert near_miss["chosen"][0]["content"] == COUNTERFACTUAL
    assert same_image(near_miss["images"][0], 10_001)


def test_trl_itself_takes_the_rows(run, tmp_path):
    from transformers import AutoProcessor
    from trl.trainer.dpo_trainer import DataCollatorForVisionPreference

    from fakes.tiny.llava import save_llava

    processor = AutoProcessor.from_pretrained(save_llava(tmp_path / "llava"))
    rows = loaded(exported(run, "trl", tmp_path))
    batch = DataCollatorForVisionPreference(processor=processor)([rows[0], rows[9]])
    # The chosen answers first, then the wrong ones, under the same images.
    images, ids = batch["pixel_values"], batch["input_ids"]
    assert images.shape[0] == ids.shape[0] == 4
    assert (images[:2] == images[2:]).all()
    words = processor.tokenizer.batch_decode(ids, skip_special_tokens=True)
    assert [w.rsplit("ASSISTANT:")[-1].strip() for w in words] == [
        CHOSEN, CHOSEN, REJECTED, COUNTERFACTUAL,
    ]  # fmt: skip


def test_ms_swift_rows_differ_in_the_image(run, tmp_path):
    rows = loaded(exported(run, "ms-swift", tmp_path))
    row = rows[3]
    assert [m["role"] for m in row["messages"]] == ["user", "assistant"]
    assert row["messages"][0]["content"] == "<image>What stands there?"
    assert row["messages"][1]["content"] == CHOSEN
    assert same_image(row["images"][0], 3)
    assert same_image(row["rejected_images"][0], 10_003)


def test_llamafactory_finds_its_files_and_columns(run, tmp_path):
    folder = exported(run, "llamafactory", tmp_path, validation=0.5)
    info = json.loads((folder / "dataset_info.json").read_text())
    assert set(info) == {"nearmiss", "nearmiss_validation"}
    for entry in info.values():
        rows = datasets.load_dataset(
            "parquet", data_files=[str(f) for f in (folder / entry["file_name"]).iterdir()],
            split="train", cache_dir=str(tmp_path / "cache"),
        )  # fmt: skip
        assert set(entry["columns"].values()) <= set(rows.column_names)
        for row in rows:
            said = "".join(turn["value"] for turn in row["conversations"])
            assert said.count("<image>") == len(row["images"]) == 1
            assert {row["chosen"]["from"], row["rejected"]["from"]} == {"gpt"}


def test_ic_vco_loads_by_its_configurations(run, tmp_path):
    folder = exported(run, "ic-vco", tmp_path, validation=0.4)
    rows = loaded(folder, "preference")
    held_out = loaded(folder, "preference", "validation")
    assert rows.num_rows + held_out.num_rows == 10
    rows = rows.cast_column("images", datasets.List(datasets.Image(decode=False)))
    for row in rows:
        assert len(row["images"]) == 2
        assert all(image["bytes"] and image["path"] is None for image in row["images"])
        (start, end) = row["chosen_response_spans"][0]
        assert row["chosen"][start:end] == "red"
        (start, end) = row["rejected_response_spans"][0]
        assert row["rejected"][start:end] == "blue"
    sft = loaded(folder, "sft")
    assert sft.num_rows == 2 * rows.num_rows
    assert {row["completion"] for row in sft} == {CHOSEN, COUNTERFACTUAL}


def test_mvc_json_names_images_that_open(run, tmp_path, monkeypatch):
    folder = exported(run, "mvc", tmp_path)
    rows = json.loads((folder / "mvc_train.json").read_text("utf-8"))
    assert len(rows) == 10
    monkeypatch.chdir(folder)
    for key, row in zip([*range(8), 8, 8], rows, strict=True):
        assert row["instruction_prompt"] == "What stands there?"
        assert (row["chosen_response"], row["rejected_response"]) == (CHOSEN, COUNTERFACTUAL)
        assert row["system_prompt"] == ""
        for name, of in (("chosen_images", key), ("rejected_images", key + 10_000)):
            (path,) = row[name]
            assert same_image(PIL.Image.open(path).convert("RGB"), of)
    assert len(list(Path("images").iterdir())) == 18  # the shared original once


def test_symmpo_rows_have_both_images_and_four_answers(run, tmp_path):
    row = loaded(exported(run, "symmpo", tmp_path))[0]
    assert (row["resp_1_w"], row["resp_1_l"]) == (CHOSEN, REJECTED)
    assert (row["resp_2_w"], row["resp_2_l"]) == (COUNTERFACTUAL, CHOSEN)
    assert same_image(row["image_1"], 0)
    assert same_image(row["image_2"], 10_000)
    assert json.loads(row["origin_split"]) == {"recipe": "removal", "kind": "object"}


def test_llava_rows_are_supervised(run, tmp_path):
    folder = exported(run, "llava", tmp_path, both_sides=True)
    rows = json.loads((folder / "llava_train.json").read_text("utf-8"))
    assert [row["conversations"][1]["value"] for row in rows[:2]] == [CHOSEN, COUNTERFACTUAL]
    assert len({row["id"] for row in rows}) == 20
    assert all((folder / row["image"]).is_file() for row in rows)


def sides_of(run: str, folder: Path, **wanted: object) -> dict[str, set[str]]:
    """By split, the names of the originals."""
    out = exported(run, "symmpo", folder, **wanted)
    return {
        split: set(loaded(out, split=split)["image_path_1"]) for split in ("train", "validation")
    }


def test_a_photo_is_on_one_side_in_every_run_however_it_is_encoded(tmp_path):
    sides = []
    for number, width in enumerate((60, 61)):  # other recipes, another codec: other bytes
        outcomes = [
            pair(f"{number}-{i}-{twice}", i, image=Image(image(i, width).bytes, f"{i}.jpg"))
            for i in range(10)
            for twice in range(2)
        ]
        url = write_run(tmp_path / f"run{number}", outcomes)
        write_data(Folder.at(url), [0], "test")
        sides.append(sides_of(url, tmp_path / f"out{number}", validation=0.5, seed=3))
        held = Rows.open([url]).split(0.5, 3)[1]
        assert set(held.images) == sides[number]["validation"], "the trainer holds out the same"
    assert sides[0] == sides[1]
    assert not sides[0]["train"] & sides[0]["validation"]
    assert min(map(len, sides[0].values())) >= 2


def test_what_cannot_be_a_row_is_counted(tmp_path, capsys):
    import dataclasses

    from schemas.records import SpannedCandidate

    whole = pair("a0", 0)
    assert isinstance(whole.record, SpannedCandidate)
    verified = whole.record.verified
    mute = dataclasses.replace(verified.candidate, counterfactual=None)
    lone = dataclasses.replace(
        whole, record=SpannedCandidate(dataclasses.replace(verified, candidate=mute), (), ())
    )
    url = write_run(tmp_path / "run", [whole, lone])
    write_data(Folder.at(url), [0], "test")
    facts = export_run(url, "mvc", str(tmp_path / "mvc"), Wanted())
    assert facts.num_rows == {"mvc_train.json train": 1}
    assert facts.left_out == {"no counterfactual answer": 1}
    assert main(["export", url, "--format", "symmpo", "--output", str(tmp_path / "symmpo")]) == 0
    assert "left out, no counterfactual answer: 1" in capsys.readouterr().out


@pytest.mark.parametrize("form", ["llamafactory", "ms-swift", "llava"])
def test_a_placeholder_in_an_answer_is_no_image(tmp_path, form):
    """They put an image in place of each, and there is one image."""
    odd = [pair("a1", 1, chosen="The page says <image>."), pair("a2", 2, prompt="<audio> What?")]
    url = write_run(tmp_path / "run", [pair("a0", 0), *odd])
    write_data(Folder.at(url), [0], "test")
    facts = export_run(url, form, str(tmp_path / form), Wanted())
    assert sum(facts.num_rows.values()) == 1
    assert facts.left_out == {
        "a literal <image> in a text": 1,
        "a literal <audio> in a text": 1,
    }
    assert export_run(url, "symmpo", str(tmp_path / "symmpo"), Wanted()).left_out == {}


@pytest.mark.parametrize("form", sorted(FORMATS))
@pytest.mark.parametrize("share", [1e-9, 1 - 1e-9], ids=["none held out", "all held out"])
def test_a_split_without_rows_is_not_there(tmp_path, form, share):
    outcomes = [pair("a0", 0)]
    url = write_run(tmp_path / "run", outcomes)
    write_data(Folder.at(url), [0], "test")
    facts = export_run(url, form, str(tmp_path / form), Wanted(validation=share))
    there, absent = ("train", "validation") if share < 0.5 else ("validation", "train")
    assert facts.without_rows == [absent]
    assert f"{absent}: no rows" in facts.text("")
    files = [f for f in (tmp_path / form).rglob("*") if f.is_file()]
    assert not [f for f in files if absent in str(f.relative_to(tmp_path / form))]
    if form == "llamafactory":
        info = json.loads((tmp_path / form / "dataset_info.json").read_text())
        assert {entry["file_name"] for entry in info.values()} == {there}
    elif FORMATS[form].tables[0].schema is not None:
        config = "preference" if form == "ic-vco" else None
        assert loaded(tmp_path / form, config, there).num_rows == 1


@pytest.mark.parametrize("form", ["trl", "mvc", "ic-vco"])
def test_an_export_that_fails_leaves_nothing_behind(tmp_path, form):
    bad = pair("a1", 1, image=Image(b"GIF89a"))
    url = write_run(tmp_path / "run", [pair("a0", 0), bad])
    write_data(Folder.at(url), [0], "test")
    out = tmp_path / "out"
    if form == "mvc":
        with pytest.raises(ValueError, match="neither JPEG"):
            export_run(url, form, str(out), Wanted())
    else:
        (file,) = (tmp_path / "run" / "data").iterdir()
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(Exception, match=r"(?i)parquet|corrupt"):
            export_run(url, form, str(out), Wanted())
        file.write_bytes(whole)
    assert not [f for f in out.rglob("*") if f.is_file()]
    assert export_run(url, "trl", str(out), Wanted()).num_pairs == 2


def test_an_export_without_rows_can_be_tried_again(tmp_path):
    url = write_run(tmp_path / "run", [pair("a0", 0, rejected=None)])
    write_data(Folder.at(url), [0], "test")
    with pytest.raises(UsageError, match="no rejected answer: 1"):
        export_run(url, "trl", str(tmp_path / "out"), Wanted(negative="rejected"))
    assert export_run(url, "trl", str(tmp_path / "out"), Wanted()).num_pairs == 1
    with pytest.raises(UsageError, match="not empty"):
        export_run(url, "trl", str(tmp_path / "out"), Wanted())


OPTIONS = {"negative": {"negative": "rejected"}, "both_sides": {"both_sides": True}}


@pytest.mark.parametrize("form", sorted(FORMATS))
@pytest.mark.parametrize("option", sorted(OPTIONS))
def test_an_option_changes_the_rows_or_is_refused(run, tmp_path, form, option):
    plain = sorted(f.stat().st_size for f in exported(run, form, tmp_path / "a").rglob("*.*"))
    if option in FORMATS[form].options:
        out = exported(run, form, tmp_path / "b", **OPTIONS[option])
        assert sorted(f.stat().st_size for f in out.rglob("*.*")) != plain
    else:
        with pytest.raises(UsageError, match=f"changes nothing in --format {form}"):
            exported(run, form, tmp_path / "b", **OPTIONS[option])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--format", "axolotl"], ["axolotl", *FORMATS]),
        (["--format", "trl", "--validation", "1"], ["--validation 1.0"]),
        (["--format", "trl"], ["not empty"]),
    ],
)
def test_a_slip_is_one_line(run, tmp_path, capsys, arguments, words):
    (tmp_path / "here.txt").write_text("mine")
    assert main(["export", run, "--output", str(tmp_path), *arguments]) == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert all(word in message for word in words)


def test_an_unfinished_run_is_refused(tmp_path):
    url = write_run(tmp_path / "run", [pair("a0")])
    with pytest.raises(UsageError, match="finished run"):
        export_run(url, "trl", str(tmp_path / "out"), Wanted())
