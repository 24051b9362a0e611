"""Inputs whose rows are pairs: CounterCurate, FineCops-Ref, SymMPO, MVC, plain tables."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.sources import open_source
from pipeline.sources.errors import SourceError
from schemas.records import Kind, Seed
from stages.read.loader import Loader


def jpeg(shade: int) -> bytes:
    sink = io.BytesIO()
    PIL.Image.fromarray(np.full((40, 50, 3), shade, np.uint8)).save(sink, "JPEG")
    return sink.getvalue()


def draw(folder: Path, *names: str) -> None:
    for shade, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(jpeg(40 + 20 * shade))


def write(folder: Path, name: str, value: object) -> None:
    (folder / name).write_text(json.dumps(value))


def seeds(path: Path, columns: dict[str, str] | None = None) -> list[Seed]:
    """The rows, read to the end by the loader."""
    refs = list(open_source(str(path), columns or {}).rows())
    outcomes = Loader(given_negative=True).process(refs)
    assert all(not hasattr(o, "reason") for o in outcomes), outcomes
    return [seed for outcome in outcomes for seed in outcome]


def test_countercurate(tmp_path):
    write(tmp_path, "counting.json", {
        "11": [{"image_id": 5, "pos": "three cups", "neg": "two cups"},
               {"image_id": 6, "pos": "three cups", "neg": "one cup"}],
    })  # fmt: skip
    write(tmp_path, "left_right.json", {
        "12": [{"image_id": 1, "pos": "a man left of a dog", "neg": "a dog left of a man"}],
    })  # fmt: skip
    write(tmp_path, "up_down.json", {
        "14": [{"image_id": 2, "pos": "a cup above a book", "neg": "a book above a cup"}],
    })  # fmt: skip
    write(tmp_path, "dalle_gen_counterfactuals.json", {
        "13": {"noun": "a cat sits", "adjective": None, "reverse": "a mat on a dog"},
    })  # fmt: skip
    write(tmp_path, "flickr30k_image_captions.json", {"13": ["a dog sits", "a dog on a mat"]})
    draw(tmp_path, "counting/pos/11.jpg", "counting/neg/11_5.png", "left_right/pos/12.jpg",
         "left_right/neg/12.jpg", "up_down/pos/14.jpg", "up_down/neg/14_2.png",
         "flickr30k-images/13.jpg",
         "dalle_gen_counterfactuals/13_noun.jpg")  # fmt: skip
    count, moved, drawn, noun = seeds(tmp_path)  # 11_6 and 13_reverse were never drawn
    assert (count.chosen, count.given_negative.answer) == ("three cups", "two cups")
    assert count.given_negative.kind is Kind.COUNT
    assert moved.given_negative.kind is Kind.POSITION
    assert drawn.given_negative.kind is Kind.RELATION
    assert (noun.chosen, noun.given_negative.answer) == ("a dog sits", "a cat sits")
    assert noun.given_negative.kind is Kind.OBJECT
    assert noun.given_negative.image.bytes == jpeg(40 + 20 * 7)
    assert len({count.seed_id, moved.seed_id, drawn.seed_id, noun.seed_id}) == 4


def test_finecops_ref_without_order_and_text_negatives(tmp_path):
    write(tmp_path, "positive.json", [
        {"id": 1, "image_id": "g1", "expression": "the red cup on the table"},
    ])  # fmt: skip
    negative = {"positive_id": 1, "negative_cate": "image"}
    write(tmp_path, "negative.json", [
        {**negative, "id": 7, "image_id": "n7", "negative_type": "replace_attribute",
         "expression": "the blue cup on the table"},
        {**negative, "id": 8, "image_id": "n8", "negative_type": "Order", "expression": "x"},
        {**negative, "id": 9, "image_id": "g1", "negative_type": "replace_object",
         "expression": "the red fork on the table", "negative_cate": "text"},
        {**negative, "id": 10, "image_id": "n10", "negative_type": "replace_relation",
         "expression": "the red cup under the table"},
    ])  # fmt: skip
    draw(tmp_path, "images/g1.jpg", "images/n7.jpg", "images/n8.jpg", "images/n10.jpg")
    attribute, relation = seeds(tmp_path)
    assert attribute.given_negative.kind is Kind.ATTRIBUTE
    assert attribute.given_negative.answer == "the blue cup on the table"
    assert relation.given_negative.kind is Kind.RELATION
    assert relation.chosen == "the red cup on the table"


CAPTIONS = "flickr30k_image_captions.json"
CHANGES = "dalle_gen_counterfactuals.json"


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        (CAPTIONS, {"1": "The dog runs."}, "image 0 .*field 1: found 'The dog runs.'.* a list"),
        (CAPTIONS, {"1": 5}, "found 5; allowed: a list"),
        (CAPTIONS, {"1": [5]}, "found 5; allowed: a text"),
        (CAPTIONS, [], "found .*allowed: an object"),
        (CHANGES, {"1": ["a cat"]}, "found .*a cat.*allowed: an object"),
        (CHANGES, {"1": {"noun": 5}}, "found 5"),
        ("counting.json", {"1": {"image_id": 1}}, "found .*allowed: a list"),
        ("counting.json", {"1": 5}, "found 5; allowed: a list"),
        ("counting.json", {"1": [{"image_id": 1, "pos": 4, "neg": "b"}]}, "found 4"),
        ("counting.json", {"1": ["x"]}, "found 'x'; allowed: an object"),
    ],
)
def test_countercurate_of_another_shape(tmp_path, name, value, words):
    write(tmp_path, CHANGES, {"1": {"noun": "a cat"}})
    write(tmp_path, name, value)
    draw(tmp_path, "flickr30k-images/1.jpg", "dalle_gen_counterfactuals/1_noun.jpg",
         "counting/pos/1.jpg", "counting/neg/1_1.png")  # fmt: skip
    with pytest.raises(SourceError, match=words):
        list(open_source(str(tmp_path)).rows())


NEGATIVE = {"id": 7, "image_id": "n7", "positive_id": 1, "negative_cate": "image",
            "expression": "the blue cup"}  # fmt: skip


@pytest.mark.parametrize(
    ("positive", "negative", "words"),
    [
        ([5], [NEGATIVE], "positive.json, item 0 .*found 5; allowed: an object"),
        ([{"id": [1]}], [NEGATIVE], r"field id: found \[1\]; allowed: a text or a whole"),
        ([{"id": 1}], ["x"], "negative.json, item 0 .*found 'x'; allowed: an object"),
        ([{"id": 1}], [{**NEGATIVE, "positive_id": [1]}], r"positive_id: found \[1\]; allowed: a"),
        ([{"id": 1, "expression": {}}], [NEGATIVE], r"found \{\}"),
    ],
)
def test_finecops_ref_of_another_shape(tmp_path, positive, negative, words):
    write(tmp_path, "positive.json", positive)
    write(tmp_path, "negative.json", negative)
    with pytest.raises(SourceError, match=words):
        list(open_source(str(tmp_path)).rows())


def test_finecops_ref_negative_of_nobody(tmp_path):
    write(tmp_path, "positive.json", [])
    write(tmp_path, "negative.json", [
        {"id": 7, "image_id": "n7", "positive_id": 3, "negative_cate": "image"},
    ])  # fmt: skip
    with pytest.raises(SourceError, match="positive_id: found 3"):
        list(open_source(str(tmp_path)).rows())


def test_symmpo_parquet_with_both_images_embedded(tmp_path):
    image = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = [
        {
            "image_1": {"bytes": jpeg(50 + i), "path": None},
            "image_2": {"bytes": jpeg(150 + i), "path": None},
            "question": "What is it?",
            "resp_1_w": f"A cup {i}.",
            "resp_1_l": "A fork.",
            "resp_2_w": "A plate.",
            "idx": 0,
            "origin_dataset": "demo",
        }
        for i in range(3)
    ]
    fields = [("image_1", image), ("image_2", image), ("idx", pa.int64())]
    fields += [(n, pa.string()) for n in rows[0] if n not in ("image_1", "image_2", "idx")]
    pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(fields)), tmp_path / "a.parquet")
    found = seeds(tmp_path / "a.parquet")
    assert [s.chosen for s in found] == ["A cup 0.", "A cup 1.", "A cup 2."]
    assert [s.image.bytes for s in found] == [jpeg(50 + i) for i in range(3)]
    assert [s.given_negative.image.bytes for s in found] == [jpeg(150 + i) for i in range(3)]
    assert found[0].rejected == "A fork."
    assert found[0].given_negative.kind is Kind.SCENE


def test_mvc_json_and_a_plain_table_say_the_same(tmp_path):
    draw(tmp_path, "a.jpg", "b.jpg")
    write(tmp_path, "mvc.json", [{
        "system_prompt": "", "instruction_prompt": "How many?", "chosen_images": ["a.jpg"],
        "rejected_images": ["b.jpg"], "chosen_response": "Three.", "rejected_response": "Two.",
    }])  # fmt: skip
    plain = {"image": "a.jpg", "prompt": "How many?", "chosen": "Three.", "other": "b.jpg",
             "counterfactual": "Two.", "kind": "count"}  # fmt: skip
    (tmp_path / "plain.jsonl").write_text(json.dumps(plain))
    (mvc,) = seeds(tmp_path / "mvc.json")
    (row,) = seeds(tmp_path / "plain.jsonl", {"counterfactual_image": "other"})
    for seed in (mvc, row):
        assert (seed.prompt, seed.chosen, seed.given_negative.answer) == (
            "How many?",
            "Three.",
            "Two.",
        )
        assert seed.given_negative.image.bytes == jpeg(60)
    assert (mvc.given_negative.kind, row.given_negative.kind) == (None, Kind.COUNT)


def test_an_unknown_kind_is_an_error_and_a_lost_image_a_drop(tmp_path):
    draw(tmp_path, "a.jpg")
    row = {"image": "a.jpg", "chosen": "A.", "counterfactual_image": "gone.jpg", "kind": "size"}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row))
    with pytest.raises(SourceError, match="kind: found 'size'"):
        list(open_source(str(tmp_path / "rows.jsonl")).rows())
    (tmp_path / "rows.jsonl").write_text(json.dumps({**row, "kind": "count"}))
    refs = list(open_source(str(tmp_path / "rows.jsonl")).rows())
    (drop,) = Loader(given_negative=True).process(refs)
    assert drop.reason == "image_not_found"
    assert "the other image" in drop.detail
    ((seed,),) = Loader().process(refs)  # not asked for, not read
    assert seed.given_negative is None
