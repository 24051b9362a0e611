from __future__ import annotations

import io
import json
from pathlib import Path

import datasets
import numpy as np
import PIL.Image
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.run_folder import Audit, Identity, RunInfo
from pipeline.run_folder.card import card_text
from schemas.files import Folder
from schemas.geometry import Box, Mask
from schemas.outcomes import Origin, Outcome, outcome_table
from schemas.records import (
    Candidate,
    Contrast,
    Drop,
    Image,
    Kind,
    Reason,
    Region,
    Seed,
    Span,
    SpannedCandidate,
    Step,
    Verdict,
    VerifiedCandidate,
)
from schemas.shards import (
    DATA_SCHEMA,
    ROW_GROUP_ROWS,
    part_name,
    read_pairs,
    read_part,
    write_data,
    write_part,
)

ORIGIN = Origin("removal-cpu", "digest", 0, "0.1.0", 1, (Step("loader", "{}"),))


def jpeg(value: int, noise: int = 0) -> Image:
    pixels = np.full((16, 24, 3), value, np.uint8)
    sink = io.BytesIO()
    PIL.Image.fromarray(pixels).save(sink, "JPEG", quality=95, subsampling=0)
    # Bytes after the end marker are ignored by decoders: an image of any size we like.
    return Image(sink.getvalue() + bytes(noise), f"{value}.jpg")


def spanned(number: int, noise: int = 0) -> SpannedCandidate:
    chosen, rejected = jpeg(number % 256, noise), jpeg(255 - number % 256, noise)
    seed = Seed(f"s{number}", 0, chosen, 24, 16, "What?", "A cat.", None, (), "test", "CC0")
    mask = np.zeros((16, 24), bool)
    mask[2:5, 3:9] = True
    candidate = Candidate(
        seed,
        Contrast(Kind.OBJECT, "cat", None, "remove the cat"),
        (Region("cat", Box(3, 2, 9, 5), Mask.from_array(mask)),),
        chosen,
        rejected,
        "There is no cat.",
        {"dilation": "3"},
    )
    verified = VerifiedCandidate(candidate, {"detail": 0.25}, Verdict(True, "locality", ""))
    return SpannedCandidate(verified, (Span(0, 1),), (Span(0, 11),))


def outcomes(numbers: range, noise: int = 0) -> pa.Table:
    pairs = [Outcome(spanned(n, noise), ORIGIN) for n in numbers]
    seed = Seed("lost", 0, jpeg(1), 24, 16, "What?", "A cat.", None, (), "test", None)
    drop = Outcome(seed, ORIGIN, Drop(Reason.NO_REGION, "none"), "annotated_regions")
    return outcome_table([*pairs[:1], drop, *pairs[1:]])


@pytest.fixture
def run(tmp_path: Path) -> Folder:
    return Folder.at(str(tmp_path / "run"))


def test_a_part_comes_back_with_its_facts(run):
    table = outcomes(range(3))
    write_part(run, 7, [table], {"nearmiss_recipe_digest": "abc"})
    assert run.names("parts") == ["part-00007.parquet"]
    back = pa.concat_tables(read_part(run, 7))
    assert back.to_pylist() == table.to_pylist()
    pairs = pa.concat_tables(read_part(run, 7, ["seed_id"], only="pair"))
    assert pairs.to_pydict() == {"seed_id": ["s0", "s1", "s2"]}
    metadata = pq.read_metadata(run.open(part_name(7))).metadata
    assert metadata[b"nearmiss_recipe_digest"] == b"abc"


def test_a_flipped_bit_in_a_page_is_noticed(run):
    write_part(run, 0, [outcomes(range(3), noise=5000)], {})
    path = Path(run.url, part_name(0))
    data = bytearray(path.read_bytes())
    data[data.index(jpeg(2).bytes) + 200] ^= 1
    path.write_bytes(data)
    with pytest.raises((OSError, pa.ArrowException)):
        list(read_part(run, 0))


def test_data_files_hold_the_pairs_in_order_under_the_final_names(run):
    write_part(run, 0, [outcomes(range(100))], {})
    write_part(run, 1, [outcomes(range(100, 130), noise=300_000)], {})
    names = write_data(run, [0, 1], "test", shard_bytes=10_000_000)
    count = len(names)
    assert count >= 2
    assert names == [f"data/train-{i:05d}-of-{count:05d}.parquet" for i in range(count)]
    assert run.names("data") == [name.removeprefix("data/") for name in names]
    ids = [row["seed_id"] for table in read_pairs(run) for row in table.to_pylist()]
    assert ids == [f"s{i}" for i in range(130)]
    for name in names:
        file = pq.ParquetFile(Path(run.url, name))
        groups = [file.metadata.row_group(i) for i in range(file.num_row_groups)]
        assert all(group.num_rows <= ROW_GROUP_ROWS for group in groups)
        assert sum(group.total_byte_size for group in groups) < 11_000_000
        columns = {
            c.path_in_schema: c for c in (groups[0].column(i) for i in range(groups[0].num_columns))
        }
        assert columns["chosen_image.bytes"].compression == "UNCOMPRESSED"
        assert set(columns["chosen_image.bytes"].encodings) == {"PLAIN", "RLE"}
        assert columns["prompt"].compression == "ZSTD"
    # Fewer pairs later: the files of the longer run must not stay behind.
    assert write_data(run, [0], "test") == ["data/train-00000-of-00001.parquet"]
    assert run.names("data") == ["train-00000-of-00001.parquet"]


def test_no_pairs_no_files(run):
    seed = Seed("lost", 0, jpeg(1), 24, 16, "What?", "A cat.", None, (), "test", None)
    table = outcome_table([Outcome(seed, ORIGIN, Drop(Reason.NO_REGION), "annotated_regions")])
    write_part(run, 0, [table], {})
    assert write_data(run, [0], "test") == []


def test_images_are_copied_to_the_byte(run):
    write_part(run, 0, [outcomes(range(5))], {})
    write_data(run, [0], "test")
    rows = [row for table in read_pairs(run) for row in table.to_pylist()]
    assert [row["rejected_image"]["bytes"] for row in rows] == [
        jpeg(255 - n).bytes for n in range(5)
    ]


def info() -> RunInfo:
    identity = Identity("removal-cpu", "digest", "in.jsonl", None, "fingerprint", 0, 128, None, 1)
    return RunInfo(identity, 5, 1, 0, ["removal-cpu"], {"removal-cpu": []}, {}, {})


def features() -> datasets.Features:
    image, text = datasets.Image(), datasets.Value("string")
    number, real = datasets.Value("int64"), datasets.Value("float64")
    spans = datasets.List(datasets.List(number))
    mask = {"height": number, "width": number, "counts": datasets.List(number)}
    region = {
        "label": text, "box": datasets.List(real), "mask": mask, "attributes": datasets.List(text),
        "score": real,
    }  # fmt: skip
    return datasets.Features({
        "pair_id": text, "seed_id": text, "chosen_image": image, "rejected_image": image,
        "prompt": text, "chosen": text, "rejected": text, "counterfactual": text,
        "chosen_spans": spans, "counterfactual_spans": spans, "rejected_spans": spans,
        "recipe": text,
        "contrast": {"kind": text, "target": text, "replacement": text, "instruction": text},
        "regions": datasets.List(region),
        "scores": datasets.List({"name": text, "value": real}),
        "verdict": {"accepted": datasets.Value("bool"), "verifier": text, "detail": text},
        "provenance": {
            "recipe_digest": text, "run_seed": number, "schema_version": number,
            "code_version": text, "steps": datasets.List({"stage": text, "settings": text}),
            "params": datasets.List({"name": text, "value": text}),
        },
        "source": text, "license": text,
    })  # fmt: skip


def test_the_metadata_is_what_datasets_itself_would_write():
    ours = json.loads(DATA_SCHEMA.metadata[b"huggingface"])
    theirs = json.loads(features().arrow_schema.metadata[b"huggingface"])
    assert ours == theirs


@pytest.mark.parametrize("what", ["file", "folder"])
def test_load_dataset_decodes_both_images(run, tmp_path, what):
    """By the file's own metadata, and by the card of the folder."""
    write_part(run, 0, [outcomes(range(5))], {})
    (name,) = write_data(run, [0], "test")
    audit = Audit(num_seeds=5, num_pairs=5, num_drops=1)
    audit.pairs["removal-cpu"] = 5
    audit.reasons["removal-cpu", "no_region"] = 1
    run.write("README.md", card_text(info(), audit, ["CC0"]).encode())
    cache = str(tmp_path / "cache")
    if what == "file":
        rows = datasets.load_dataset(
            "parquet", data_files=str(Path(run.url, name)), split="train", cache_dir=cache
        )
    else:
        rows = datasets.load_dataset(run.url, split="train", cache_dir=cache)
    assert rows.features == features()
    assert len(rows) == 5
    assert isinstance(rows[3]["chosen_image"], PIL.Image.Image)
    assert rows[3]["chosen_image"].size == rows[3]["rejected_image"].size == (24, 16)
    assert rows[3]["rejected_image"].getpixel((0, 0)) == (252, 252, 252)
    assert rows[3]["scores"] == [{"name": "detail", "value": 0.25}]
