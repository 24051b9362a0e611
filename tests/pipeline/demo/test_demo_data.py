import io
import json
import re
import subprocess
import sys
from collections import Counter

import numpy as np
import PIL.Image
import pyarrow.parquet as pq
import pytest

from pipeline.demo.__main__ import main, write_demo
from pipeline.demo.backgrounds import Background, paint_background
from pipeline.demo.photos import annotated_rows, photo
from pipeline.demo.scenes import COLORS, PARQUET_SCHEMA, SHAPES, scene, write_scenes

NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4, "no": 0}
SCENES = [scene(3, index, side=128) for index in range(80)]


def claims(sentence):
    """How many of each thing a count sentence claims: {"ring": 2} or {"red ring": 2}."""
    found = re.findall(r"\b(no|one|two|three|four) ([a-z ]+?)(?= and|\.)", sentence)
    return {re.sub("(?<=cross)es$|s$(?<!ss)", "", name): NUMBERS[number] for number, name in found}


def true_of(sentence, image):
    """Whether a scene's answer is true of its objects, judged from the words alone."""
    labels = Counter(o.label for o in image.objects)
    shapes = Counter(label.split()[1] for label in labels.elements())
    if sentence.startswith("There "):
        counted = claims(sentence)
        assert counted
        return all((labels if " " in name else shapes)[name] == n for name, n in counted.items())
    if "left" in sentence:
        middle = {o.label: (o.box.x0 + o.box.x1) / 2 for o in image.objects}
        names = re.findall(rf"({'|'.join(COLORS)}) ({'|'.join(SHAPES)})", sentence)
        left, right = (middle.get(" ".join(n), 0.0) for n in names)
        return left < 64 < right
    pairs = re.findall(rf"[Tt]he ({'|'.join(SHAPES)}) is ([a-z]+)", sentence)
    if pairs:
        return all(labels[f"{color} {shape}"] == 1 for shape, color in pairs)
    names = re.findall(rf"({'|'.join(COLORS)}) ({'|'.join(SHAPES)})", sentence)
    assert names
    return {" ".join(n) for n in names} == set(labels) and image.background.value in sentence


def test_chosen_is_true_and_rejected_is_false():
    for image in SCENES:
        assert true_of(image.chosen, image), image.chosen
        assert not true_of(image.rejected, image), image.rejected


def test_masks_are_the_pixels_that_were_painted():
    for image in SCENES:
        total = np.zeros((128, 128), int)
        for thing in image.objects:
            total += thing.mask
            rows, columns = np.nonzero(thing.mask)
            assert thing.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)
            # The bulk of the shape has the colour of its name: nearest of all names' colours.
            middle = np.median(image.pixels[thing.mask], axis=0)
            nearest = min(COLORS, key=lambda c: np.abs(np.array(COLORS[c]) - middle).sum())
            assert nearest == thing.label.split()[0]
        assert total.max() == 1, "shapes touch"


def test_a_scene_depends_on_its_seed_and_index_alone():
    again = scene(3, 5, side=128)
    assert np.array_equal(again.pixels, SCENES[5].pixels)
    assert again.chosen == SCENES[5].chosen
    assert scene(4, 5, side=128).pixels.tobytes() != SCENES[5].pixels.tobytes()
    assert len({s.pixels.tobytes() for s in SCENES}) == len(SCENES)


def test_all_shapes_colors_and_backgrounds_occur():
    labels = {o.label for s in SCENES for o in s.objects}
    assert {x.split()[0] for x in labels} == set(COLORS)
    assert {x.split()[1] for x in labels} == set(SHAPES)
    assert {s.background for s in SCENES} == set(Background)
    assert len({s.prompt for s in SCENES}) > 10


@pytest.mark.parametrize("side", [64, 100, 256, 512])
@pytest.mark.parametrize("kind", list(Background))
def test_backgrounds_fill_any_side(kind, side):
    pixels = paint_background(np.random.default_rng(0), kind, side)
    assert pixels.shape == (side, side, 3)
    assert pixels.dtype == np.uint8
    assert pixels.std() > 2


def test_a_side_too_small_is_refused():
    for side in (20, 74):
        with pytest.raises(ValueError, match=f"side is {side}"):
            scene(0, 0, side=side)
    for index in range(50):
        scene(0, index, side=75)


def test_jsonl_and_parquet_hold_the_same_rows_and_images(tmp_path):
    lines = write_scenes(tmp_path / "a", 10, seed=1, side=96).read_text().splitlines()
    table = pq.read_table(write_scenes(tmp_path / "b", 10, seed=1, side=96, format="parquet"))
    assert table.schema.equals(PARQUET_SCHEMA)
    codecs = set()
    for line, other in zip(lines, table.to_pylist(), strict=True):
        row = json.loads(line)
        data = (tmp_path / "a" / row.pop("image")).read_bytes()
        assert other.pop("image")["bytes"] == data
        assert row == other
        with PIL.Image.open(io.BytesIO(data)) as image:
            codecs.add(image.format)
            assert image.size == (96, 96)
    assert codecs == {"JPEG", "PNG"}


def test_photo_annotations_fit_their_images():
    rows = annotated_rows()
    assert len({row["id"] for row in rows}) == len(rows) >= 15
    for row in rows:
        with photo(row["image"]).open("rb") as file, PIL.Image.open(file) as image:
            width, height = image.size
        assert row["image"] in row["source"]
        assert row["license"]
        assert row["chosen"] != row["rejected"]
        for thing in row["objects"]:
            x0, y0, x1, y1 = thing["box"]
            assert 0 <= x0 < x1 <= width
            assert 0 <= y0 < y1 <= height
        # What the answer speaks of comes first; others stand there so that they are not copied.
        assert all(
            thing["label"].split()[-1] in row["chosen"].lower() for thing in row["objects"][:1]
        ), row["id"]


def test_the_command_writes_photos_and_scenes_without_heavy_imports(tmp_path):
    code = (
        "import sys; from pipeline.demo.__main__ import main; "
        f"status = main(['--output', {str(tmp_path)!r}, '--scenes', '3']); "
        "heavy = {'ray', 'torch', 'pydantic'} & set(sys.modules); "
        "sys.exit(str(heavy) if heavy else status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stderr.splitlines()) == 1
    rows = [json.loads(line) for line in (tmp_path / "seeds.jsonl").read_text().splitlines()]
    assert len(rows) == len(annotated_rows()) + 3
    for row in rows:
        PIL.Image.open(tmp_path / row["image"]).load()


def test_the_same_seed_writes_the_same_bytes(tmp_path):
    first, second = (write_demo(tmp_path / name, 4, seed=7) for name in "ab")
    assert first.read_bytes() == second.read_bytes()
    for path in sorted((tmp_path / "a/images").iterdir()):
        assert path.read_bytes() == (tmp_path / "b/images" / path.name).read_bytes()


def test_bad_output_is_one_line_and_status_2(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    assert main(["--output", str(tmp_path / "file"), "--scenes", "1"]) == 2
    assert len(caplog.records) == 1
