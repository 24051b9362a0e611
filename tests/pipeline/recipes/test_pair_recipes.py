"""`mvc` and `retrieval` whole: real runs over scenes, a real chat server that knows the truth."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fakes.chat_server import ChatServer, Say
from fakes.pair_runs import (
    EMBEDDERS,
    Witness,
    pair_rows,
    rows_of,
    same_image,
    shade,
    truth_of,
    wrong_caption,
)
from pipeline.__main__ import main
from pipeline.demo.scenes import write_scenes
from schemas.files import Folder
from schemas.shards import read_pairs
from trainer.data.rows import Rows

NUM = 18
SET_EMBEDDERS = [word for setting in EMBEDDERS for word in ("--set", setting)]


@pytest.fixture(scope="module")
def recolored(tmp_path_factory) -> Path:
    """Pairs of our own making, as the input of somebody who brings pairs."""
    folder = tmp_path_factory.mktemp("recolored")
    write_scenes(folder / "input", NUM, side=128)
    seeds = str(folder / "input" / "seeds.jsonl")
    assert main(["run", "recolor-cpu", "--input", seeds, "--output", f"{folder}/run",
                 "--local"]) == 0  # fmt: skip
    return folder / "run"


def test_mvc_lets_right_pairs_through_and_stops_planted_ones(recolored, tmp_path, capsys):
    pairs = pa.concat_tables(list(read_pairs(Folder.at(str(recolored))))).to_pylist()
    assert len(pairs) >= 6
    table, planted = [], {}
    for i, (row, pair) in enumerate(zip(pair_rows(pairs), pairs, strict=True)):
        row |= {"prompt": "Is there a duck?", "rejected": "Yes, there is a duck."}
        table.append(row)
        if i % 3 == 0:
            planted[f"same-p{i}"] = "too_similar"
            table.append(same_image(row))
        if i % 3 == 1:
            planted[f"wrong-p{i}"] = "refuted"
            table.append(wrong_caption(row, pair))
        if i % 3 == 2:
            planted[f"swapped-p{i}"] = "refuted"
            table.append(row | {"id": f"swapped-p{i}", "chosen": row["counterfactual"],
                                "counterfactual": row["chosen"]})  # fmt: skip
    pq.write_table(pa.Table.from_pylist(table), tmp_path / "pairs.parquet")
    with ChatServer(Witness(truth_of(pairs))) as server:
        command = [
            "run", "mvc", "--input", str(tmp_path / "pairs.parquet"), "--output",
            str(tmp_path / "run"), "--local", "--columns",
            "image=chosen_image,counterfactual_image=rejected_image", *SET_EMBEDDERS,
            "--set", "double_threshold.limits.attribute={min_appearance: 0.3, max_detail: 0.999}",
        ]  # fmt: skip
        for stage in ("questioner", "rewriter", "chat_verifier"):
            command += ["--set", f"{stage}.chat.base_url={server.url}"]
        assert main(command) == 0
    rows = rows_of(tmp_path / "run")
    reasons = {r["seed_id"]: r["reason"] for r in rows}
    assert {key: reasons[key] for key in planted} == planted
    good = [r for r in rows if r["seed_id"] not in planted]
    passed = [r for r in good if r["status"] == "pair"]
    assert len(passed) >= 0.9 * len(good), Counter(r["reason"] for r in good)
    for row in passed:
        assert row["prompt"] == "What can be seen there?"
        assert row["rejected"] is None, "an answer to another question"
        assert row["chosen"].startswith("Well: ")
        spans = [row["chosen"][s:e] for s, e in row["chosen_spans"]]
        assert spans, "the contrast is still marked"
        assert row["scores"]
        params = {p["name"]: p["value"] for p in row["provenance"]["params"]}
        assert f"Well: {params['caption_chosen']}" == row["chosen"]
    refuted = [r for r in rows if r["reason"] == "refuted"]
    assert all("b_of_second" in r["evidence"] for r in refuted)
    out = tmp_path / "export"
    assert main(["export", str(tmp_path / "run"), "--format", "mvc", "--output", str(out),
                 "--validation", "0.3"]) == 0  # fmt: skip
    written = [json.loads((out / f"mvc_{s}.json").read_text()) for s in ("train", "validation")]
    assert sum(map(len, written)) == len(passed)
    out = tmp_path / "trl"
    assert main(["export", str(tmp_path / "run"), "--format", "trl", "--output", str(out)]) == 0
    (table,) = [pq.read_table(file) for file in (out / "data").iterdir()]
    wrong = {answer[0]["content"] for answer in table["rejected"].to_pylist()}
    assert wrong == {row["counterfactual"] for row in passed}


def countercurate(folder: Path, image: bytes) -> Path:
    """One pair of `up_down`, whose other image is the same."""
    for name in ("up_down/pos/1.jpg", "up_down/neg/1_1.png"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_bytes(image)
    pair = {"image_id": 1, "pos": "a cup above a book", "neg": "a book above a cup"}
    (folder / "up_down.json").write_text(json.dumps({"1": [pair]}))
    return folder


def symmpo(folder: Path, image: bytes) -> Path:
    """One row of SymMPO, whose other image is the same."""
    cell = {"bytes": image, "path": None}
    row = {"image_1": cell, "image_2": cell, "question": "What is it?", "resp_1_w": "A cup.",
           "resp_1_l": "A fork.", "resp_2_w": "A plate.", "idx": "1"}  # fmt: skip
    folder.mkdir()
    pq.write_table(pa.Table.from_pylist([row]), folder / "rows.parquet")
    return folder / "rows.parquet"


@pytest.mark.parametrize("made", [countercurate, symmpo])
def test_mvc_filters_every_kind_that_it_says_it_filters(recolored, tmp_path, made):
    (pair, *_) = pa.concat_tables(list(read_pairs(Folder.at(str(recolored))))).to_pylist()
    source = made(tmp_path / "input", pair["chosen_image"]["bytes"])
    with ChatServer([Say("nobody should ask")]) as server:
        command = ["run", "mvc", "--input", str(source), "--output", str(tmp_path / "run"),
                   "--local", *SET_EMBEDDERS]  # fmt: skip
        for stage in ("questioner", "rewriter", "chat_verifier"):
            command += ["--set", f"{stage}.chat.base_url={server.url}"]
        assert main(command) == 0
        assert not server.payloads
    assert [row["reason"] for row in rows_of(tmp_path / "run")] == ["too_similar"]


def test_a_liar_is_outvoted_more_often_than_not(recolored, tmp_path):
    """One vote in five is a lie: with three votes and a majority, one pair in ten is lost."""
    pairs = pa.concat_tables(list(read_pairs(Folder.at(str(recolored))))).to_pylist()
    kept = {}
    for votes in (1, 3):
        with ChatServer(Witness(truth_of(pairs), lies=0.2)) as server:
            command = [
                "run", "mvc", "--input", f"{recolored}/data", "--output",
                str(tmp_path / f"run{votes}"), "--local", *SET_EMBEDDERS,
                "--set", "double_threshold.limits={}", "--set", f"chat_verifier.votes={votes}",
            ]  # fmt: skip
            for stage in ("questioner", "rewriter", "chat_verifier"):
                command += ["--set", f"{stage}.chat.base_url={server.url}"]
            assert main(command) == 0
        rows = rows_of(tmp_path / f"run{votes}")
        kept[votes] = sum(r["status"] == "pair" for r in rows) / len(rows)
    assert kept[1] < kept[3] <= 1


def test_retrieval_pairs_similar_scenes_and_answers_for_both(tmp_path):
    write_scenes(tmp_path / "input", NUM, side=96)
    seeds = tmp_path / "input" / "seeds.jsonl"
    truth = {}
    for line in seeds.read_text().splitlines():
        row = json.loads(line)
        truth[shade((seeds.parent / row["image"]).read_bytes())] = row["chosen"]

    # Nearly one in three gets the answer of another image.
    witness = Witness(truth, wrong_answers=0.3)
    with ChatServer(witness) as server:
        command = [
            "run", "retrieval", "--input", str(seeds), "--output", str(tmp_path / "run"),
            "--local", *SET_EMBEDDERS, "--set", "pairing.embedder=color_layout",
            "--set", "pairing.min_similarity=0.3", "--set", "double_threshold.limits={}",
            "--set", "pairing.validation=0.4",
        ]  # fmt: skip
        for stage in ("answerer", "chat_verifier"):
            command += ["--set", f"{stage}.chat.base_url={server.url}"]
        assert main(command) == 0
        asked = len(server.payloads)
        assert main(command) == 0
        assert len(server.payloads) == asked, "a finished run asks nothing again"
    rows = rows_of(tmp_path / "run")
    assert Counter(r["seed_id"] for r in rows).most_common(1)[0][1] == 1
    assert len(rows) == NUM
    pairs = [r for r in rows if r["status"] == "pair"]
    reasons = Counter(r["reason"] for r in rows)
    assert len(pairs) > NUM / 4, reasons
    assert reasons["refuted"] > 2
    for row in pairs:
        assert witness.shown(row["chosen_image"]["bytes"]) == row["chosen"]
        assert witness.shown(row["rejected_image"]["bytes"]) == row["counterfactual"]
        assert row["contrast"]["kind"] == "scene"
    no_photo_is_on_both_sides(tmp_path / "run", tmp_path / "export", witness)


def no_photo_is_on_both_sides(run: Path, out: Path, witness: Witness) -> None:
    command = ["export", str(run), "--format", "symmpo", "--output", str(out)]
    assert main([*command, "--validation", "0.5", "--seed", "1"]) == 0
    rows = {s: [r for f in sorted((out / "data").glob(f"{s}-*")) for r in
                pq.read_table(f).to_pylist()] for s in ("train", "validation")}  # fmt: skip
    photos = {
        side: {witness.shown(row[i]["bytes"]) for row in own for i in ("image_1", "image_2")}
        for side, own in rows.items()
    }
    assert all(photos.values())
    assert not photos["train"] & photos["validation"]
    train, held = Rows.open([str(run)]).split(0.1, 7)
    assert set(train.pair_ids) == {row["idx"] for row in rows["train"]}
    assert set(held.pair_ids) == {row["idx"] for row in rows["validation"]}
