"""`mvc` and `retrieval` whole: real runs over scenes, a real chat server that knows the truth."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.__main__ import main
from pipeline.demo.scenes import write_scenes
from schemas.files import Folder
from schemas.shards import read_pairs, read_part
from tests.chat_server import ChatServer, Say, images, system_text, user_text

NUM = 18
EMBEDDERS = ["--set", "embedder.appearance=color_layout", "--set", "embedder.detail=gradient_grid"]


def rows_of(run: Path) -> list[dict]:
    folder = Folder.at(str(run))
    shards = range(len(folder.names("parts")))
    return pa.concat_tables([t for s in shards for t in read_part(folder, s)]).to_pylist()


def shade(image: bytes) -> bytes:
    """What a picture is known by, whatever codec it went through: its pixels, very coarse."""
    picture = PIL.Image.open(io.BytesIO(image)).convert("RGB").resize((12, 12))
    return (np.asarray(picture).astype(int) // 4).astype(np.uint8).tobytes()


def nearest_key(image: bytes, known: dict[bytes, str]) -> str:
    """The text of the known picture that is most like this one."""
    mine = np.frombuffer(shade(image), np.uint8).astype(int)
    return min(known.items(), key=lambda kv: np.abs(np.frombuffer(kv[0], np.uint8) - mine).sum())[1]


@pytest.fixture(scope="module")
def recolored(tmp_path_factory) -> Path:
    """Pairs of our own making, as the input of somebody who brings pairs."""
    folder = tmp_path_factory.mktemp("recolored")
    write_scenes(folder / "input", NUM, side=128)
    seeds = str(folder / "input" / "seeds.jsonl")
    assert main(["run", "recolor-cpu", "--input", seeds, "--output", f"{folder}/run",
                 "--local"]) == 0  # fmt: skip
    return folder / "run"


def quoted(label: str, payload: dict) -> str:
    (found,) = re.findall(rf'{label}: ("(?:[^"\\]|\\.)*")', user_text(payload))
    return json.loads(found)


def writer(truth: dict[bytes, str], payload: dict, *, lies: float = 0.0) -> Say:
    """Asks, rewrites, and judges by what is true of the picture; lies at random, by the seed."""
    system = system_text(payload)
    if "You write questions" in system:
        return Say({"contrast": "colour", "question": "What can be seen in the picture?"})
    if "You turn captions" in system:
        return Say({
            "question": "What can be seen there?",
            "answer_a": f"Well: {quoted('Caption A', payload)}",
            "answer_b": f"Well: {quoted('Caption B', payload)}",
        })  # fmt: skip
    text, shown = user_text(payload), nearest_key(images(payload)[0], truth)
    answers = [json.loads(t) for t in re.findall(r'"(?:[^"\\]|\\.)*"', text)]
    a, b = answers[-2], answers[-1]
    found = ["yes" if shown in answer else "no" for answer in (a, b)]
    draw = int(hashlib.sha256(f"{payload['seed']}{text}".encode()).hexdigest()[:8], 16) / 16**8
    if draw < lies:
        found = ["no" if f == "yes" else "yes" for f in found]
    return Say({"reason": shown, "a_of_picture": found[0], "b_of_picture": found[1]})


def test_mvc_lets_right_pairs_through_and_stops_planted_ones(recolored, tmp_path, capsys):
    pairs = pa.concat_tables(list(read_pairs(Folder.at(str(recolored))))).to_pylist()
    assert len(pairs) >= 6
    truth = {shade(p["rejected_image"]["bytes"]): p["counterfactual"] for p in pairs}
    truth |= {shade(p["chosen_image"]["bytes"]): p["chosen"] for p in pairs}
    table, planted = [], {}
    for i, pair in enumerate(pairs):
        row = {k: pair[k] for k in ("chosen_image", "rejected_image", "chosen", "counterfactual")}
        row |= {"id": f"p{i}", "kind": "attribute", "prompt": "Is there a duck?"}
        row |= {"rejected": "Yes, there is a duck."}
        table.append(row)
        if i % 3 == 0:  # the other picture is the same one
            planted[f"same{i}"] = "too_similar"
            table.append({**row, "id": f"same{i}", "rejected_image": row["chosen_image"]})
        if i % 3 == 1:  # the caption of the other picture is not true of it
            planted[f"wrong{i}"] = "refuted"
            start, end = pair["counterfactual_spans"][0]
            text = row["counterfactual"]
            other = f"{text[:start]}transparent{text[end:]}"
            table.append({**row, "id": f"wrong{i}", "counterfactual": other})
    pq.write_table(pa.Table.from_pylist(table), tmp_path / "pairs.parquet")
    with ChatServer(lambda payload: writer(truth, payload)) as server:
        command = [
            "run", "mvc", "--input", str(tmp_path / "pairs.parquet"), "--output",
            str(tmp_path / "run"), "--local", "--columns",
            "image=chosen_image,counterfactual_image=rejected_image", *EMBEDDERS,
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
    assert all("b_of_picture" in r["evidence"] for r in refuted)
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


def countercurate(folder: Path, picture: bytes) -> Path:
    """One pair of `up_down`, whose other picture is the same."""
    for name in ("up_down/pos/1.jpg", "up_down/neg/1_1.png"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_bytes(picture)
    pair = {"image_id": 1, "pos": "a cup above a book", "neg": "a book above a cup"}
    (folder / "up_down.json").write_text(json.dumps({"1": [pair]}))
    return folder


def symmpo(folder: Path, picture: bytes) -> Path:
    """One row of SymMPO, whose other picture is the same."""
    image = {"bytes": picture, "path": None}
    row = {"image_1": image, "image_2": image, "question": "What is it?", "resp_1_w": "A cup.",
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
                   "--local", *EMBEDDERS]  # fmt: skip
        for stage in ("questioner", "rewriter", "chat_verifier"):
            command += ["--set", f"{stage}.chat.base_url={server.url}"]
        assert main(command) == 0
        assert not server.payloads
    assert [row["reason"] for row in rows_of(tmp_path / "run")] == ["too_similar"]


def test_a_liar_is_outvoted_more_often_than_not(recolored, tmp_path):
    """One vote in five is a lie: with three votes and a majority, one pair in ten is lost."""
    pairs = pa.concat_tables(list(read_pairs(Folder.at(str(recolored))))).to_pylist()
    truth = {shade(p["rejected_image"]["bytes"]): p["counterfactual"] for p in pairs}
    kept = {}
    for votes in (1, 3):
        with ChatServer(lambda payload: writer(truth, payload, lies=0.2)) as server:
            command = [
                "run", "mvc", "--input", f"{recolored}/data", "--output",
                str(tmp_path / f"run{votes}"), "--local", *EMBEDDERS,
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

    def script(payload: dict) -> Say:
        if "You answer questions" in system_text(payload):
            return Say(nearest_key(images(payload)[0], truth))
        return writer(truth, payload)

    with ChatServer(script) as server:
        command = [
            "run", "retrieval", "--input", str(seeds), "--output", str(tmp_path / "run"),
            "--local", *EMBEDDERS, "--set", "matching.embedder=color_layout",
            "--set", "matching.min_similarity=0.3", "--set", "double_threshold.limits={}",
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
    assert len(pairs) > NUM / 2, Counter(r["reason"] for r in rows)
    for row in pairs:
        assert nearest_key(row["chosen_image"]["bytes"], truth) == row["chosen"]
        assert nearest_key(row["rejected_image"]["bytes"], truth) == row["counterfactual"]
        assert row["contrast"]["kind"] == "scene"
