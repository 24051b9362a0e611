"""Parquet with embedded images, COCO and Visual Genome, through files as real tools write them."""

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

from pipeline.sources import SourceError, open_source
from pipeline.sources.formats.visual_genome import answer
from schemas.geometry import Box
from schemas.records import Drop, Reason
from stages.read.loader import Loader


def png(level=0, width=40, height=40):
    sink = io.BytesIO()
    PIL.Image.new("RGB", (width, height), (level, level, level)).save(sink, "PNG")
    return sink.getvalue()


def level(outcome):
    if isinstance(outcome, Drop):
        return outcome.reason
    with PIL.Image.open(io.BytesIO(outcome[0].image.bytes)) as image:
        return image.getpixel((5, 5))[0]


def fails(path, *words, columns=None):
    with pytest.raises(SourceError) as caught:
        list(open_source(str(path), columns or {}).rows())
    for word in words:
        assert word in str(caught.value), str(caught.value)


# Parquet


def hub_dataset(folder, num_rows, name="train-00000-of-00001.parquet"):
    """RLAIF-V's columns, written by `datasets` with its images inside."""
    features = datasets.Features(
        {
            "ds_name": datasets.Value("string"),
            "image": datasets.Image(),
            "question": datasets.Value("string"),
            "chosen": datasets.Value("string"),
            "rejected": datasets.Value("string"),
            "origin_dataset": datasets.Value("string"),
            "idx": datasets.Value("string"),
        }
    )
    rows = [
        {
            "ds_name": "mini",
            "image": {"bytes": png(i), "path": None},
            "question": f"What is {i}?",
            "chosen": f"It is {i}.",
            "rejected": "It is nothing.",
            "origin_dataset": "COCO",
            "idx": f"{name}-{i}",
        }
        for i in range(num_rows)
    ]
    data = datasets.Dataset.from_list(rows, features=features)
    folder.mkdir(exist_ok=True, parents=True)
    data.to_parquet(str(folder / name), batch_size=7)
    return str(folder / name)


def test_a_hub_dataset_is_mapped_and_its_images_are_found(tmp_path):
    source = open_source(hub_dataset(tmp_path, 20))
    assert source.mapped.preset == "rlaif-v"
    seeds = list(source.rows())
    assert len(seeds) == 20
    assert seeds[9].prompt == "What is 9?"
    assert seeds[9].source == "COCO: train-00000-of-00001.parquet row 9"
    assert (seeds[9].image.row, seeds[9].image.column, seeds[9].image.bytes) == (9, "image", None)
    assert [level(o) for o in Loader().process(seeds)] == list(range(20))


def test_a_folder_of_shards_is_read_in_order(tmp_path):
    for i in range(3):
        hub_dataset(tmp_path / "data", 3, f"train-{i:05d}-of-00003.parquet")
    for url in (tmp_path, tmp_path / "data", tmp_path / "data" / "train-*"):
        seeds = list(open_source(str(url)).rows())
        assert [s.seed_id[-1] for s in seeds] == list("012012012")
    assert len({s.seed_id for s in seeds}) == 9


def test_image_bytes_are_never_read_by_the_scan(tmp_path):
    """Damaged image pages do not disturb the scan: it does not look at them."""
    path = tmp_path / "a.parquet"
    image = np.random.default_rng(0).bytes(200_000)
    cells = [{"bytes": image, "path": None}] * 3
    table = pa.table({"image": cells, "chosen": ["a", "b", "c"]})
    pq.write_table(table, path, compression="none", use_dictionary=False)
    data = bytearray(path.read_bytes())
    chunk = pq.ParquetFile(path).metadata.row_group(0).column(0)
    assert chunk.path_in_schema == "image.bytes"
    start = chunk.data_page_offset
    data[start : start + chunk.total_compressed_size] = bytes(chunk.total_compressed_size)
    path.write_bytes(data)
    assert [s.chosen for s in open_source(str(path)).rows()] == ["a", "b", "c"]


IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


@pytest.mark.parametrize("statistics", [True, False])
def test_every_kind_of_image_cell(tmp_path, statistics):
    (tmp_path / "x.png").write_bytes(png(99))
    inside, outside = {"bytes": png(7), "path": "i.png"}, {"bytes": None, "path": "x.png"}
    columns = {
        "struct": pa.array([inside, outside, None], IMAGE),
        "binary": pa.array([png(7), None, png(8)], pa.binary()),
        "text": pa.array(["x.png", str(tmp_path / "x.png"), None]),
        "list": pa.array([[inside], [outside], []], pa.list_(IMAGE)),
        "binaries": pa.array([[png(7)], [png(1), png(2)], None], pa.list_(pa.binary())),
        "pairs": pa.array([[inside, inside], [outside, outside], [inside]], pa.list_(IMAGE)),
        "inner": pa.array([{"photo": inside}, {"photo": outside}, {"photo": None}]),
        "bytes_only": pa.array([{"bytes": png(7)}, None, {"bytes": None}]),
    }
    table = pa.table({**columns, "chosen": ["a", "b", "c"]})
    path = str(tmp_path / "a.parquet")
    pq.write_table(table, path, write_statistics=statistics, row_group_size=2)
    missing, bad = Reason.IMAGE_NOT_FOUND, Reason.BAD_IMAGE
    for column, want in {
        "struct": [7, 99, missing],
        "binary": [7, missing, 8],
        "text": [99, 99, missing],
        "list": [7, 99, missing],
        "binaries": [7, bad, missing],
        "pairs": [bad, bad, 7],
        "inner.photo": [7, 99, missing],
        "bytes_only": [7, missing, missing],
    }.items():
        seeds = list(open_source(path, {"image": column}).rows())
        assert [level(o) for o in Loader().process(seeds)] == want, column
        assert len({s.seed_id for s in seeds}) == 3


def test_trl_parquet_with_messages(tmp_path):
    turn = datasets.Features(
        {"role": datasets.Value("string"), "content": datasets.Value("string")}
    )
    features = datasets.Features(
        {
            "images": datasets.List(datasets.Image()),
            **dict.fromkeys(("prompt", "chosen", "rejected"), datasets.List(turn)),
        }
    )
    row = {
        "images": [{"bytes": png(5), "path": None}],
        "prompt": [{"role": "user", "content": "What?"}],
        "chosen": [{"role": "assistant", "content": "A dog."}],
        "rejected": [{"role": "assistant", "content": "A cat."}],
    }
    path = str(tmp_path / "a.parquet")
    datasets.Dataset.from_list([row, row], features=features).to_parquet(path)
    seeds = list(open_source(path).rows())
    assert [(s.prompt, s.chosen, s.rejected) for s in seeds] == [("What?", "A dog.", "A cat.")] * 2
    assert [level(o) for o in Loader().process(seeds)] == [5, 5]


def test_objects_in_parquet(tmp_path):
    objects = [[{"label": "dog", "box": [1, 2, 3, 4], "attributes": ["red"]}], None, []]
    table = pa.table({"image": ["a.png"] * 3, "chosen": ["x"] * 3, "objects": objects})
    pq.write_table(table, tmp_path / "a.parquet")
    seeds = list(open_source(str(tmp_path / "a.parquet")).rows())
    assert [len(s.regions) for s in seeds] == [1, 0, 0]
    assert seeds[0].regions[0].attributes == ("red",)


def test_parquet_errors(tmp_path):
    path = hub_dataset(tmp_path, 3)
    fails(path, "unknown column 'answer'", "question", columns={"chosen": "answer"})
    bad = pa.table(
        {"image": ["a"], "chosen": ["x"], "objects": [[{"label": "d", "box": [3, 0, 1, 1]}]]}
    )
    pq.write_table(bad, tmp_path / "bad.parquet")
    fails(tmp_path / "bad.parquet", "bad.parquet, row 0 (counted from 0)", "objects[0].box")
    data = Path(path).read_bytes()
    (tmp_path / "cut.parquet").write_bytes(data[: len(data) // 2])
    fails(tmp_path / "cut.parquet", "cut.parquet", "not a readable Parquet file")
    pq.write_table(pa.table({"image": ["a"], "chosen": ["x"]}), tmp_path / "second.parquet")
    (tmp_path / "set").mkdir()
    hub_dataset(tmp_path / "set", 1, "a.parquet")
    pq.write_table(pa.table({"image": ["a"], "chosen": ["x"]}), tmp_path / "set" / "b.parquet")
    fails(tmp_path / "set", "b.parquet", "no column 'idx'")


def test_the_digest_reads_the_footer_alone(tmp_path):
    first = hub_dataset(tmp_path / "a", 5)
    second = hub_dataset(tmp_path / "b", 5)
    assert open_source(first).digest() == open_source(second).digest()
    third = hub_dataset(tmp_path / "c", 6)
    assert open_source(first).digest() != open_source(third).digest()


# COCO


def coco(folder, split="val2017", **instances_changes):
    annotations = folder / "annotations"
    annotations.mkdir(parents=True)
    images = folder / split
    images.mkdir()
    for i, name in ((139, "000000000139.jpg"), (285, "000000000285.jpg")):
        (images / name).write_bytes(png(i % 200, 60, 50))
    entry = {"width": 60, "height": 50}
    captions = {
        "info": {},
        "licenses": [
            {"id": 2, "name": "CC BY-NC", "url": "http://x"},
            {"id": 3, "url": "http://y"},
        ],
        "images": [
            {"id": 139, "file_name": "000000000139.jpg", "license": 2, **entry},
            {"id": 285, "file_name": "000000000285.jpg", "license": 3, **entry},
        ],
        "annotations": [
            {"id": 1, "image_id": 139, "caption": "A dog on grass."},
            {"id": 2, "image_id": 139, "caption": "Another caption."},
        ],
    }
    instance = {"image_id": 139, "category_id": 18, "iscrowd": 0}
    instances = {
        "images": captions["images"],
        "categories": [{"id": 18, "name": "dog"}],
        "annotations": [
            {
                **instance,
                "bbox": [10, 20, 15, 10],
                "segmentation": [[10, 20, 24, 20, 24, 29, 10, 29], [50, 40, 59, 40, 59, 49]],
            },
            {**instance, "bbox": [0, 0, 5, 5], "iscrowd": 1},
            {
                **instance,
                "bbox": [0, 0, 1, 50],
                "segmentation": {"size": [50, 60], "counts": [0, 50, 2950]},
            },
            {**instance, "bbox": [1.5, 2.5, 3, 4], "segmentation": []},
        ],
        **instances_changes,
    }
    (annotations / f"captions_{split}.json").write_text(json.dumps(captions))
    (annotations / f"instances_{split}.json").write_text(json.dumps(instances))
    return folder


def test_coco(tmp_path):
    folder = coco(tmp_path / "coco")
    captions = folder / "annotations" / "captions_val2017.json"
    for url in (folder, folder / "annotations", captions):
        source = open_source(str(url))
        assert source.mapped.preset == "coco"
        dog, bare = source.rows()
        assert dog.image.path == str(folder / "val2017" / "000000000139.jpg")
    assert (dog.seed_id, dog.prompt, dog.chosen) == (
        "139",
        "Describe the image.",
        "A dog on grass.",
    )
    assert (dog.license, bare.license) == ("CC BY-NC", "http://y")
    assert bare.defect.reason is Reason.MISSING_ANSWER
    assert [r.box for r in dog.regions] == [
        Box(10, 20, 25, 30),
        Box(0, 0, 1, 50),
        Box(1.5, 2.5, 4.5, 6.5),
    ]
    assert {r.label for r in dog.regions} == {"dog"}
    polygons, runs = (r.mask.to_array() for r in dog.regions[:2])
    assert polygons[20:30, 10:25].all()
    assert polygons[:, :10].sum() == 0
    assert polygons[41, 59]  # the second polygon of the same object
    assert runs[:, 0].all()
    assert not runs[:, 1:].any()
    assert dog.regions[2].mask is None
    ((seed,),) = Loader().process([dog])
    assert [r.box for r in seed.regions] == [r.box for r in dog.regions]


def test_coco_errors(tmp_path):
    box = {"image_id": 139, "category_id": 18, "bbox": [1, 2, -3, 4]}
    fails(coco(tmp_path / "a", annotations=[box]), "instances_val2017.json, annotation 0", "bbox")
    unknown = {"image_id": 139, "category_id": 5, "bbox": [1, 2, 3, 4]}
    fails(coco(tmp_path / "b", annotations=[unknown]), "annotation 0", "category_id")
    odd = {**unknown, "category_id": 18, "segmentation": [["x"] * 6]}
    fails(coco(tmp_path / "c", annotations=[odd]), "annotation 0", "segmentation")
    fails(coco(tmp_path / "d", categories=7), "instances_val2017.json, field categories")
    folder = coco(tmp_path / "e")
    (folder / "annotations" / "captions_train2017.json").write_text("{}")
    fails(folder, "several caption files", "captions_train2017.json")


# Visual Genome


def visual_genome(folder):
    folder.mkdir()
    (folder / "VG_100K_2").mkdir()
    (folder / "VG_100K_2" / "1.jpg").write_bytes(png(70, 60, 50))
    files = {
        "image_data": [
            {"image_id": 1, "url": "https://x.org/VG_100K_2/1.jpg", "width": 60, "height": 50},
            {"image_id": 2, "url": "https://x.org/VG_100K/2.jpg"},
        ],
        "objects": [
            {
                "image_id": 1,
                "objects": [
                    {"object_id": 5, "names": ["clock", "watch"], "x": 4, "y": 5, "w": 10, "h": 20},
                    {"object_id": 6, "names": ["street"], "x": 0, "y": 30, "w": 60, "h": 20},
                ],
            }
        ],
        "attributes": [
            {
                "image_id": 1,
                "attributes": [
                    {"object_id": 5, "names": ["clock"], "attributes": ["green", "tall ", "green"]},
                    {"object_id": 6, "names": ["street"]},
                ],
            }
        ],
        "region_descriptions": [
            {
                "id": 1,
                "regions": [
                    {"phrase": "the clock is green in colour"},
                    {"phrase": "a clock"},
                    {"phrase": "Shade along the wide street."},
                    {"phrase": "the street"},
                    {"phrase": "a man walking past the shop"},
                ],
            }
        ],
    }
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def test_visual_genome(tmp_path):
    folder = visual_genome(tmp_path / "vg")
    for url in (folder, folder / "image_data.json"):
        source = open_source(str(url))
        first, second = source.rows()
        assert source.mapped.preset == "visual_genome"
    assert first.chosen == (
        "The clock is green in colour. Shade along the wide street. A man walking past the shop."
    )
    assert [(r.label, r.box, r.attributes) for r in first.regions] == [
        ("clock", Box(4, 5, 14, 25), ("green", "tall")),
        ("street", Box(0, 30, 60, 50), ()),
    ]
    assert (first.seed_id, first.license) == ("1", "CC BY 4.0")
    assert second.defect.reason is Reason.MISSING_ANSWER
    assert [level(o) for o in Loader().process([first])] == [70]


def test_answers_of_phrases():
    assert answer([]) is None
    assert answer(["", " . "]) is None
    assert answer(["a dog", "A  dog", "a dog."]) == "A dog."


def test_visual_genome_errors(tmp_path):
    folder = visual_genome(tmp_path / "vg")
    (folder / "objects.json").write_text('[{"image_id": 1}]')
    fails(folder, "objects.json", "image 1", "objects is not a list")
    (folder / "objects.json").write_text(
        '[{"image_id": 1, "objects": [{"names": ["a"], "x": 1, "y": 2, "w": -1, "h": 2}]}]'
    )
    fails(folder, "image_data.json, item 0", "objects[0] (x, y, w, h)")
    (folder / "objects.json").write_text('[{"image_id": 1, "objects": [{"names": []}]}]')
    fails(folder, "objects[0]")
