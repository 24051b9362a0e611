"""Rows of text formats: mapping, cells, defects, and errors a person can act on."""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path

import fsspec
import PIL.Image
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import pipeline.sources
from pipeline.sources import FIELDS, SourceError, open_source, presets
from pipeline.sources.formats import formats
from schemas.arrow import from_bytes, to_bytes
from schemas.geometry import Box, Mask
from schemas.records import Reason, SeedRef
from stages.read.loader import Loader


def png(level=0, size=40):
    sink = io.BytesIO()
    PIL.Image.new("RGB", (size, size), (level, level, level)).save(sink, "PNG")
    return sink.getvalue()


ROW = {
    "id": "one",
    "image": "a.png",
    "prompt": "What is it?",
    "chosen": "A dog on grass.",
    "rejected": "A cat.",
    "objects": [{"label": "dog", "box": [1, 2, 30, 40]}],
    "license": "CC0",
}


def write(folder, rows, name="rows.jsonl"):
    path = folder / name
    path.write_bytes(b"".join(json.dumps(row).encode() + b"\n" for row in rows))
    return str(path)


def seeds(path, **columns):
    return list(open_source(path, columns).rows(run_seed=9))


def one(folder, **changes):
    (seed,) = seeds(write(folder, [{**ROW, **changes}]))
    return seed


def fails(path, *words, columns=None, image_root=None):
    with pytest.raises(SourceError) as caught:
        list(open_source(path, columns or {}, image_root).rows())
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message


# The native format


def test_a_native_row(tmp_path):
    seed = one(tmp_path)
    assert seed.seed_id == "one"
    assert seed.run_seed == 9
    assert seed.image.path == str(tmp_path / "a.png")
    assert (seed.prompt, seed.chosen, seed.rejected) == ("What is it?", "A dog on grass.", "A cat.")
    assert [(r.label, r.box) for r in seed.regions] == [("dog", Box(1, 2, 30, 40))]
    assert (seed.source, seed.license) == ("rows.jsonl line 1", "CC0")
    assert seed.defect is None


def test_only_image_and_answer_are_needed(tmp_path):
    (seed,) = seeds(write(tmp_path, [{"image": "a.png", "chosen": "A dog."}]))
    assert (seed.prompt, seed.rejected, seed.regions, seed.license) == ("", None, (), None)
    assert len(seed.seed_id) == 32


def test_masks_in_both_spellings_and_attributes(tmp_path):
    mask = Mask(4, 4, (5, 2, 2, 2, 5))
    objects = [
        {"label": "a", "box": [1, 1, 3, 3], "mask": {"size": [4, 4], "counts": [5, 2, 2, 2, 5]}},
        {"label": "b", "box": [1, 1, 3, 3], "mask": {"size": [4, 4], "counts": "52203"}},
        {"label": "c", "box": [1, 1, 3, 3], "attributes": ["red", "old"], "score": 0.9},
    ]
    regions = one(tmp_path, objects=objects).regions
    assert regions[0].mask == regions[1].mask == mask
    assert regions[2].attributes == ("red", "old")


def test_image_root_and_urls(tmp_path):
    (tmp_path / "root").mkdir()
    path = write(
        tmp_path,
        [
            ROW,
            {**ROW, "id": "2", "image": "memory://b/a.png"},
            {**ROW, "id": "3", "image": "/abs/a.png"},
        ],
    )
    source = open_source(path, {}, str(tmp_path / "root"))
    assert [s.image.path for s in source.rows()] == [
        str(tmp_path / "root" / "a.png"),
        "memory://b/a.png",
        "/abs/a.png",
    ]
    (first, *_) = open_source(path, {}, "memory://photos/").rows()
    assert first.image.path == "memory://photos/a.png"
    fails(path, "--image-root", "no such folder", image_root=str(tmp_path / "missing"))


def test_inline_images_load(tmp_path):
    data = png(100)
    url = "data:image/png;base64," + base64.b64encode(data).decode()
    for cell in (url, [url], {"bytes": url, "path": None}):
        seed = one(tmp_path, image=cell)
        assert seed.image.bytes == data
        ((loaded,),) = Loader().process([seed])
        assert loaded.image.bytes == data
    assert one(tmp_path, image={"bytes": None, "path": "b.png"}).image.path.endswith("/b.png")
    assert one(tmp_path, image=["b.png"]).image.path.endswith("/b.png")
    assert one(tmp_path, image="data:,%89PNG").image.bytes == b"\x89PNG"


def test_a_remote_input_gives_remote_images():
    fs = fsspec.filesystem("memory")
    fs.pipe("/set/rows.jsonl", json.dumps(ROW).encode())
    fs.pipe("/set/a.png", png(60))
    for url in ("memory://set/rows.jsonl", "memory://set", "memory://set/*.jsonl"):
        (seed,) = seeds(url)
        assert seed.image.path == "memory://set/a.png"
    ((loaded,),) = Loader().process([seed])
    assert loaded.image.bytes == png(60)


# Chat formats


def test_llava_takes_the_first_question_and_its_answer(tmp_path):
    turns = [
        ("system", "Be brief."),
        ("human", "<image>\nWhat is this?"),
        ("gpt", "A red stool."),
        ("human", "And that?"),
        ("gpt", "A dog."),
    ]
    row = {
        "id": "7",
        "image": "coco/a.jpg",
        "conversations": [{"from": f, "value": v} for f, v in turns],
    }
    path = tmp_path / "llava.json"
    path.write_text(json.dumps([row]))
    source = open_source(str(path))
    (seed,) = source.rows()
    assert source.mapped.preset == "llava"
    assert (seed.seed_id, seed.prompt, seed.chosen) == ("7", "What is this?", "A red stool.")
    assert seed.source == "llava.json item 0"
    assert one(tmp_path, prompt="Compare <image> with the last one.\n<image>").prompt == (
        "Compare with the last one."
    )


def test_trl_plain_and_conversational(tmp_path):
    def turn(role, content):
        return {"role": role, "content": content}

    blocks = [{"type": "image"}, {"type": "text", "text": "What is it?"}]
    rows = [
        {"images": ["a.png"], "prompt": "What is it?", "chosen": "A dog.", "rejected": "A cat."},
        {
            "images": ["a.png"],
            "prompt": [turn("user", blocks)],
            "chosen": [turn("assistant", [{"type": "text", "text": "A dog."}])],
            "rejected": [turn("assistant", "A cat.")],
        },
        {  # the prompt is in the answers
            "images": ["a.png"],
            "chosen": [turn("user", "What is it?"), turn("assistant", "A dog.")],
            "rejected": [turn("user", "What is it?"), turn("assistant", "A cat.")],
        },
        {  # the last turn is what the answers answer
            "images": ["a.png"],
            "prompt": [turn("user", "Hi"), turn("assistant", "Hello"), turn("user", "What is it?")],
            "chosen": turn("assistant", "A dog."),
            "rejected": turn("assistant", "A cat."),
        },
    ]
    source = open_source(write(tmp_path, rows))
    assert source.mapped.preset == "trl"
    for seed in source.rows():
        assert (seed.prompt, seed.chosen, seed.rejected) == ("What is it?", "A dog.", "A cat.")


# Presets and columns


def test_every_preset_maps_known_fields():
    known = {one.name for one in formats()}
    for preset in presets().values():
        assert set(preset.formats) <= known
        assert set(preset.columns) <= set(FIELDS)
        assert {"image", "chosen"} <= set(preset.columns)
        assert set(preset.defaults) <= set(FIELDS)


def test_the_readme_lists_every_format():
    readme = (Path(pipeline.sources.__file__).parent / "README.md").read_text("utf-8")
    assert [one.name for one in formats() if f"| `{one.name}` |" not in readme] == []


def test_the_preset_follows_the_columns(tmp_path):
    rows = {
        "native": ROW,
        "rlaif-v": {"image": "a", "question": "q", "chosen": "c", "rejected": "r", "idx": "3"},
        "llava": {"image": "a", "conversations": []},
        "trl": {"images": ["a"], "chosen": "c"},
    }
    for name, row in rows.items():
        assert open_source(write(tmp_path, [row])).mapped.preset == name
    fails(write(tmp_path, [{"text": "x", "image": "y"}]), "text, image", "native needs", "trl")


def test_columns_override_the_preset(tmp_path):
    path = write(tmp_path, [{"uid": 4, "img": "a.png", "answer": "A dog.", "meta": {"q": "What?"}}])
    (seed,) = seeds(path, id="uid", image="img", chosen="answer", prompt="meta.q")
    assert (seed.seed_id, seed.chosen, seed.prompt) == ("4", "A dog.", "What?")
    path = write(tmp_path, [{"question": "q", "chosen": "c", "rejected": "r", "img": "x"}])
    assert open_source(path, {"image": "img"}).mapped.preset == "rlaif-v"
    path = write(tmp_path, [ROW])
    (seed,) = seeds(path, id="")
    assert seed.seed_id != "one"
    (seed,) = seeds(path, preset="native", chosen="rejected")
    assert seed.chosen == "A cat."


def test_wrong_columns_are_named(tmp_path):
    path = write(tmp_path, [ROW])
    fails(path, "'answer'", "chosen", "rejected", columns={"chosen": "answer"})
    fails(path, "'chsen'; did you mean chosen?", columns={"prompt": "chsen"})
    fails(path, "unknown field 'chosn'; did you mean chosen?", columns={"chosn": "chosen"})
    fails(path, "preset 'lava'; did you mean llava?", "pascal_voc", columns={"preset": "lava"})
    fails(path, "preset coco reads coco", "jsonl", columns={"preset": "coco"})
    fails(path, "field chosen", "--columns chosen=", columns={"chosen": ""})
    fails(path, "preset trl", "field image", columns={"preset": "trl"})


# What a person must put right


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"objects": [{"label": "dog", "box": [30, 2, 1, 40]}]}, ("objects[0].box", "order")),
        ({"objects": [{"label": "dog", "box": [1, 40, 30, 2]}]}, ("objects[0].box", "order")),
        ({"objects": [{"label": "dog", "box": [1, 2, 3]}]}, ("objects[0].box", "four")),
        ({"objects": [{"label": "dog", "box": [1, 2, 3, float("nan")]}]}, ("box", "finite")),
        ({"objects": [{"label": "dog", "box": [1, 2, 3, 10**400]}]}, ("box", "finite")),
        ({"objects": [{"label": "dog", "box": [1, 2, 3, True]}]}, ("box", "four")),
        ({"objects": [{"label": "dog", "box": "1 2 3 4"}]}, ("box", "four")),
        ({"objects": [{"label": "dog"}]}, ("objects[0]", "label and box")),
        ({"objects": [{"label": "", "box": [1, 2, 3, 4]}]}, ("objects[0].label",)),
        ({"objects": "dog"}, ("objects", "'dog'")),
        ({"objects": [{"label": "d", "box": [1, 2, 3, 4], "mask": {"size": [1]}}]}, ("mask",)),
        (
            {
                "objects": [
                    {"label": "d", "box": [1, 2, 3, 4], "mask": {"size": [4, 4], "counts": "\x01"}}
                ]
            },
            ("mask", "damaged"),
        ),
        ({"id": 1.5}, ("field id", "1.5")),
        ({"id": True}, ("field id", "True")),
        ({"id": ""}, ("field id",)),
        ({"id": ["x"]}, ("field id",)),
        ({"chosen": 7}, ("field chosen", "7")),
        ({"chosen": [{"text": "x"}]}, ("field chosen", "role and content")),
        ({"image": 7}, ("field image", "7")),
        ({"license": ["x"]}, ("field license",)),
        ({"image": "gs://bucket/a.jpg"}, ("pip install 'nearmiss[gcs]'",)),
    ],
)
def test_errors_name_file_row_field(tmp_path, changes, words):
    path = write(tmp_path, [ROW, {**ROW, **changes}])
    fails(path, path, "line 2", *words)


def test_errors_of_json(tmp_path):
    path = tmp_path / "rows.jsonl"
    good = json.dumps(ROW).encode()
    for content, words in {
        good + b"\n{oops\n": ("line 2", "not valid JSON", "column 2"),
        good + b"\n[1]\n": ("line 2", "[1]", "an object"),
        good + b'\n"\xff"\n': ("line 2", "UTF-8"),
        good + b"\n" + b"[" * 100_000 + b"\n": ("line 2", "not valid JSON"),
        good + b"\n" + b"1" * 5000 + b"\n": ("line 2", "not valid JSON"),
        b"": ("empty",),
        b"\n\n": ("empty",),
    }.items():
        path.write_bytes(content)
        fails(str(path), str(path), *words)
    whole = tmp_path / "rows.json"
    whole.write_text("[\n{},\n{oops}]")
    fails(str(whole), "rows.json", "not valid JSON", "line 3")
    whole.write_text("[]")
    fails(str(whole), "empty")
    whole.write_text("7")
    fails(str(whole), "a list of objects")
    path.write_bytes(b"\xef\xbb\xbf" + good + b"\n\n" + json.dumps({**ROW, "id": 2}).encode())
    assert [s.source for s in seeds(str(path))] == ["rows.jsonl line 1", "rows.jsonl line 3"]


def test_inputs_that_are_not_there(tmp_path):
    fails(str(tmp_path / "none.jsonl"), "none.jsonl", "no such file", ".parquet")
    fails(str(tmp_path), "no file")
    (tmp_path / "a.csv").write_text("x")
    fails(str(tmp_path), "a.csv", ".jsonl")
    fails(str(tmp_path / "a.csv"), "unknown kind of file")
    (tmp_path / "a.jsonl").write_text("{}")
    (tmp_path / "a.parquet").write_text("{}")
    fails(str(tmp_path), "both .jsonl and .parquet", "/*.jsonl'")
    fails(str(tmp_path / "a.parquet"), "a.parquet", "not a readable Parquet file")
    fails(str(tmp_path / "*.txt"), "nothing to read")
    fails("gs://bucket/rows.jsonl", "pip install 'nearmiss[gcs]'")
    fails("nope://bucket/rows.jsonl", "nope")
    fails("", "no input named")


def test_a_json_file_of_lines_is_read_as_lines(tmp_path):
    path = write(tmp_path, [ROW, {**ROW, "id": 2}], "rows.json")
    assert [s.seed_id for s in seeds(path)] == ["one", "2"]


# Defects: the row is kept, and will be dropped


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"chosen": None}, Reason.MISSING_ANSWER),
        ({"chosen": " \n"}, Reason.MISSING_ANSWER),
        ({"chosen": []}, Reason.MISSING_ANSWER),
        ({"chosen": "a\0b"}, Reason.BAD_TEXT),
        ({"prompt": "a\ud800b"}, Reason.BAD_TEXT),
        ({"rejected": "\udfff"}, Reason.BAD_TEXT),
        ({"objects": [{"label": "a\0", "box": [0, 0, 1, 1]}]}, Reason.BAD_TEXT),
        ({"id": "a\ud800"}, Reason.BAD_TEXT),
        ({"license": "\0"}, Reason.BAD_TEXT),
        ({"image": "a\0.png"}, Reason.BAD_TEXT),
        ({"chosen": "x" * 20_001}, Reason.TEXT_TOO_LONG),
        ({"rejected": "x" * 10_000_000}, Reason.TEXT_TOO_LONG),
        ({"id": "x" * 2_000}, Reason.TEXT_TOO_LONG),
        ({"image": "data:image/png;base64,!!"}, Reason.BAD_IMAGE),
        ({"image": "data:image/png;base64"}, Reason.BAD_IMAGE),
        ({"image": "data:image/png;base64,"}, Reason.BAD_IMAGE),
        ({"image": ["a.png", "b.png"]}, Reason.BAD_IMAGE),
        ({"image": None}, Reason.IMAGE_NOT_FOUND),
        ({"image": ""}, Reason.IMAGE_NOT_FOUND),
        ({"image": []}, Reason.IMAGE_NOT_FOUND),
        ({"image": {"bytes": None, "path": None}}, Reason.IMAGE_NOT_FOUND),
        ({"image": "nope://a/b.png"}, Reason.IMAGE_NOT_FOUND),
    ],
)
def test_defects(tmp_path, changes, reason):
    seed = one(tmp_path, **changes)
    assert seed.defect.reason is reason
    assert "\n" not in seed.defect.detail
    assert all(len(t or "") <= 20_000 for t in (seed.prompt, seed.chosen, seed.rejected))
    assert from_bytes(to_bytes([seed], SeedRef), SeedRef) == [seed]
    assert Loader().process([seed]) == [seed.defect]


def test_bad_text_is_made_storable(tmp_path):
    assert one(tmp_path, chosen="a\0b\ud800c").chosen == "a\ufffdb\ufffdc"
    assert one(tmp_path, chosen="x" * 20_001).chosen == "x" * 500
    assert one(tmp_path, chosen="x" * 20_000).defect is None


def test_unusable_ids_stay_apart(tmp_path):
    path = write(tmp_path, [{**ROW, "id": f"\ud800{c}"} for c in "ab\ufffd"])
    assert len({seed.seed_id for seed in seeds(path)}) == 3


def test_content_ids_do_not_depend_on_the_place(tmp_path):
    row = {key: value for key, value in ROW.items() if key != "id"}
    ids = []
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        ids.append(
            [s.seed_id for s in seeds(write(tmp_path / folder, [row, {**row, "chosen": "B"}]))]
        )
    assert ids[0] == ids[1]
    assert ids[0][0] != ids[0][1]


anything = st.text(st.characters(codec=None, categories=None), max_size=30)


@given(
    st.lists(st.tuples(anything, anything, anything, anything, anything), min_size=1, max_size=5)
)
@settings(max_examples=60)
def test_arbitrary_text_is_stored_or_named(tmp_path_factory, texts):
    rows = [
        {
            "image": f"x{image}",
            "prompt": prompt,
            "chosen": chosen,
            "rejected": rejected,
            "objects": [{"label": f"l{label}", "box": [0, 0, 1, 1]}],
        }
        for image, prompt, chosen, rejected, label in texts
    ]
    path = write(tmp_path_factory.mktemp("any"), rows)
    found = seeds(path)
    assert len(found) == len(rows)
    assert from_bytes(to_bytes(found, SeedRef), SeedRef) == found
    for seed, row in zip(found, rows, strict=True):
        if seed.defect is None:
            assert (seed.chosen, seed.rejected or "") == (row["chosen"], row["rejected"])
        Loader().process([seed])


# Fingerprint


def test_the_digest_is_of_the_content(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first = open_source(write(tmp_path / "a", [ROW])).digest()
    assert open_source(write(tmp_path / "b", [ROW], "renamed.jsonl")).digest() == first
    assert open_source(str(tmp_path / "a")).digest() == first
    assert open_source(write(tmp_path / "a", [{**ROW, "id": "two"}])).digest() != first
    path = write(tmp_path / "b", [ROW])
    assert open_source(path, {"chosen": "rejected"}).digest() != first
