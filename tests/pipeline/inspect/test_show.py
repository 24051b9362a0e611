"""`show`: what a terminal says of one pair or one seed."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipeline.inspect.show import show
from pipeline.report import write_report
from schemas.outcomes import Outcome
from schemas.records import Drop, Image, Reason
from tests.pipeline.fake_runs import (
    FACTS,
    candidate,
    mixed_run,
    origin,
    pair,
    ref_drop,
    scored_drop,
    seed,
    seed_drop,
    write_run,
)


def rows_of(run: str) -> list[dict]:
    parts = sorted(Path(run, "parts").iterdir())
    return [row for part in parts for row in pq.read_table(part).to_pylist()]


def test_a_pair_is_shown_with_all_that_made_it(tmp_path):
    run = write_run(tmp_path, [pair("s1", 3, appearance=0.25), pair("s2", 4)])
    pair_id = rows_of(run)[0]["pair_id"]
    text = show(run, pair_id, facts=FACTS)
    lines = text.splitlines()
    assert lines[0] == f"Pair {pair_id}"
    after = {above: below.strip() for above, below in pairwise(lines)}
    assert after["Prompt"] == "What stands there?"
    assert after["Chosen (true of the original)"] == "A [[red]] stool stands there."
    assert after["Counterfactual (true of the near miss)"] == "A [[blue]] stool stands there."
    assert after["Rejected (the ordinary wrong answer)"] == "A green lamp stands there."
    assert after["Contrast: object"] == "make the red stool blue"
    assert after["Regions"] == "red stool: box 20, 10, 50, 30; mask 600 pixels, 25.0 % of the image"
    assert after["Verdict"] == "accepted by locality: inside 12, outside 0.1"
    assert after["Made by"] == '1. loader {"max_side":1024}'
    assert re.search(r"appearance +0.25 +fails min 0.5", text)
    assert re.search(r"detail +0.6 +passes max 0.9", text)
    assert re.search(r"source +rows.jsonl:4", text)
    assert re.search(r"licence +CC0", text)
    assert "drawn: color = blue" in text
    assert text.count("JPEG 60 x 40") == 2
    assert re.search(r"appearance +0.25$", show(run, pair_id), re.MULTILINE), "no limits are known"


def test_a_drop_says_where_and_why(tmp_path):
    run = write_run(tmp_path, [scored_drop("s1", 1, 0.2), ref_drop("s2")])
    text = show(run, "s1", facts=FACTS)
    assert text.startswith("Drop: too_different at filter\n")
    assert "appearance 0.2 below 0.5" in text
    assert "differs too much" in text
    assert "fails min 0.5" in text
    bare = show(run, "s2")
    assert bare.startswith("Drop: image_not_found at loader\n")
    assert "gone.jpg does not exist" in bare
    assert "Scores" not in bare
    assert "Regions" not in bare


def test_what_a_model_said_stands_with_the_drop(tmp_path):
    said = '{"change_made": "no", <script>alert(1)</script>}'
    drop = Drop(Reason.REFUTED, "0 of 3 votes for it", said)
    url = write_run(tmp_path, [Outcome(seed("s1"), origin("edit"), drop, "chat_verifier")])
    assert said in " ".join(show(url, "s1", facts=FACTS).split())
    page = Path(write_report(url, replace(FACTS, num_seeds=1))).read_text("utf-8")
    assert "change_made" in page
    assert "<script>alert" not in page


def test_a_seed_shows_all_its_outcomes(tmp_path):
    run, _ = mixed_run(tmp_path)
    text = show(run, "e0")
    assert text.startswith("2 outcomes of seed e0\n")
    assert text.count("\nPair ") == 1
    assert text.count("Drop: no_region at grounder") == 1


def test_every_id_is_found_whole_and_by_a_prefix_of_its_own(tmp_path):
    run, _ = mixed_run(tmp_path)
    ids = {r["pair_id"] for r in rows_of(run) if r["pair_id"]}
    for pair_id in ids:
        whole = show(run, pair_id)
        assert pair_id in whole
        own = next(
            n
            for n in range(1, 33)
            if not any(i != pair_id and i.startswith(pair_id[:n]) for i in ids)
        )
        if not any(r["seed_id"].startswith(pair_id[:own]) for r in rows_of(run)):
            assert show(run, pair_id[:own]) == whole


def test_what_cannot_be_shown_is_said_in_one_line(tmp_path):
    run = write_run(tmp_path, [pair("seed-1", 1), pair("seed-2", 2), seed_drop("seed-30", 3)])
    with pytest.raises(ValueError, match=r"no pair or seed of .* begins with 'nowhere'"):
        show(run, "nowhere")
    with pytest.raises(ValueError, match="'seed-' is the beginning of 0 pair ids and 3 seed ids"):
        show(run, "seed-")
    with pytest.raises(ValueError, match="no id given"):
        show(run, "")
    with pytest.raises(ValueError, match="is not a run directory"):
        show(str(tmp_path / "nothing"), "seed-1")
    with pytest.raises(ValueError) as caught:
        show(run, "no\nsuch")
    assert "\n" not in str(caught.value)
    # A whole id is no ambiguous beginning of a longer one.
    more = write_run(tmp_path / "more", [seed_drop("s1"), seed_drop("s10")])
    assert "outcomes" not in show(more, "s1")


def test_images_are_written_only_where_asked(tmp_path):
    run = write_run(tmp_path / "run", [pair("s1", 1), ref_drop("../../s2"), seed_drop("a/../b", 3)])
    before = sorted(p for p in tmp_path.rglob("*"))
    show(run, "s1")
    assert sorted(p for p in tmp_path.rglob("*")) == before
    folder = tmp_path / "new" / "folder"
    text = show(run, "s1", images_to=str(folder))
    row = rows_of(run)[0]
    paths = re.findall(r"^  wrote (.+)$", text, re.MULTILINE)
    assert [Path(p).read_bytes() for p in paths] == [
        row["chosen_image"]["bytes"],
        row["rejected_image"]["bytes"],
    ]
    assert sorted(map(Path, paths)) == sorted(folder.iterdir())
    assert {Path(p).suffix for p in paths} == {".jpg"}
    assert "wrote" not in show(run, "../../s2", images_to=str(folder))
    (path,) = re.findall(
        r"^  wrote (.+)$", show(run, "a/../b", images_to=str(folder)), re.MULTILINE
    )
    assert Path(path).parent == folder
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="cannot be written"):
        show(run, "s1", images_to=str(tmp_path / "file"))


def test_text_cannot_drive_the_terminal(tmp_path):
    evil = "before \x1b[2J\x1b]0;title\x07 \u202eafter \x00"
    made = candidate(
        "s1\x1b", 1, prompt=evil, chosen=evil, rejected=evil, source=evil, license=evil
    )
    dropped = Outcome(made, origin("removal"), Drop(Reason.MODEL_ERROR, evil), "embedder")
    text = show(write_run(tmp_path, [dropped]), "s1")
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202e]", text)
    assert text.count("before ") == 6


def test_a_broken_image_is_no_obstacle(tmp_path):
    broken = Outcome(
        seed("s1", image=Image(b"nothing")), origin("flip"), Drop(Reason.BAD_IMAGE), "loader"
    )
    text = show(write_run(tmp_path, [broken]), "s1")
    assert "cannot be decoded, 7 bytes" in text


def test_a_long_answer_keeps_its_line_breaks_and_is_wrapped(tmp_path):
    prompt = "first line\n\nsecond " + "word " * 60
    run = write_run(tmp_path, [pair("s1", 1, prompt=prompt)])
    lines = show(run, "s1", facts=FACTS).splitlines()
    at = lines.index("Prompt")
    assert lines[at + 1 : at + 3] == ["  first line", ""]
    assert lines[at + 3].startswith("  second word")
    assert max(map(len, lines)) <= 96
