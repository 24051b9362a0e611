"""What bad input gets, end to end: rows that will not do are dropped with their reason and the run
goes on; what only a person can put right is one line that names file, row and field."""

from __future__ import annotations

import contextlib
import io
import json
import os
import struct
import subprocess
import sys
import time
import zlib
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest

from pipeline.__main__ import main
from schemas.files import Folder
from schemas.shards import read_part
from tests.pipeline.harness import Bench, Trouble

WIDTH, HEIGHT = 80, 60


def call(*args: object) -> SimpleNamespace:
    """Run the command to its end, in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        returncode = main([str(arg) for arg in args])
    return SimpleNamespace(returncode=returncode, stdout=out.getvalue(), stderr=err.getvalue())


def call_outside(*args: object) -> subprocess.CompletedProcess[str]:
    """Run the command to its end, as a process."""
    return subprocess.run(
        [sys.executable, "-m", "pipeline", *map(str, args)],
        capture_output=True,
        text=True,
        check=False,
        timeout=500,
    )


def gradient(mode: str = "RGB") -> PIL.Image.Image:
    """A slanted gradient with texture: red grows to the right, green downwards."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    noise = np.random.default_rng(0).integers(0, 24, (HEIGHT, WIDTH))
    planes = np.stack([x * 2.5 + noise, y * 3.5 + noise, 90 + noise], axis=-1)
    return PIL.Image.fromarray(planes.clip(0, 255).astype(np.uint8)).convert(mode)


def encoded(image: PIL.Image.Image, form: str, **more: object) -> bytes:
    sink = io.BytesIO()
    image.save(sink, form, **more)
    return sink.getvalue()


def bomb() -> bytes:
    """A PNG of a few hundred bytes whose header says 60,000 x 60,000 pixels."""
    data = bytearray(encoded(gradient(), "PNG"))
    data[16:24] = struct.pack(">II", 60_000, 60_000)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data[:500])


def lying() -> bytes:
    """The image stored on its side, with the EXIF word that turns it upright."""
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    turned = gradient().transpose(PIL.Image.Transpose.ROTATE_90)
    return encoded(turned, "JPEG", quality=95, exif=exif)


def deep() -> PIL.Image.Image:
    grey = np.asarray(gradient("L")).astype(np.uint16)
    return PIL.Image.fromarray(grey * 257)


def with_alpha() -> PIL.Image.Image:
    image = gradient("RGBA")
    image.putalpha(255)
    return image


JPEG = encoded(gradient(), "JPEG", quality=95)

GOOD: dict[str, bytes] = {
    "plain": JPEG,
    "cmyk": encoded(gradient("CMYK"), "JPEG", quality=95),
    "16-bit": encoded(deep(), "PNG"),
    "palette": encoded(gradient().quantize(200), "PNG"),
    "alpha": encoded(with_alpha(), "PNG"),
    "rotated": lying(),
    "grey": encoded(gradient("L"), "PNG"),
}
"""Images that are converted where that is right."""

BAD_IMAGES: dict[str, tuple[bytes, str]] = {
    "truncated": (JPEG[: len(JPEG) // 2], "bad_image"),
    "zero-bytes": (b"", "bad_image"),
    "text": (b"this is no image\n" * 20, "bad_image"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "bad_image"),
    "bomb": (bomb(), "image_too_large"),
    "one-pixel": (encoded(PIL.Image.new("RGB", (1, 1)), "PNG"), "image_too_small"),
}

BAD_ROWS: dict[str, tuple[dict[str, object], str]] = {
    "no-such-file": ({"image": "images/none.png"}, "image_not_found"),
    "no-image": ({"image": None}, "image_not_found"),
    "bad-data-url": ({"image": "data:image/png;base64,%%%"}, "bad_image"),
    "box-outside": ({"objects": [{"label": "sky", "box": [500, 500, 600, 600]}]}, "bad_box"),
    "box-empty": ({"objects": [{"label": "sky", "box": [9, 9, 9, 30]}]}, "bad_box"),
    "no-answer": ({"chosen": None}, "missing_answer"),
    "empty-answer": ({"chosen": "  \n"}, "missing_answer"),
    "long-answer": ({"chosen": "word " * 2_000_000}, "text_too_long"),
    "long-prompt": ({"prompt": "w" * 30_000}, "text_too_long"),
    "nul": ({"chosen": "A sky\0 of blue."}, "bad_text"),
    "surrogate": ({"rejected": "A sky \ud83d of red."}, "bad_text"),
    "nul-in-label": ({"objects": [{"label": "s\0y", "box": [1, 1, 9, 9]}]}, "bad_text"),
    "nul-in-path": ({"image": "a\0b.png"}, "bad_text"),
}


def row(name: str, image: str, **changes: object) -> dict[str, object]:
    return {
        "id": name,
        "image": image,
        "prompt": "What is there?",
        "chosen": "A slope of colours.",
        "rejected": "A dog.",
        "objects": [],
    } | changes


def written(folder: Path, rows: list[dict[str, object]]) -> Path:
    path = folder / "seeds.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return path


@pytest.fixture(scope="module")
def dropped(tmp_path_factory):
    """One run over all that is dropped and all that is converted: (rows by id, status)."""
    folder = tmp_path_factory.mktemp("bad")
    (folder / "images").mkdir()
    rows = []
    images = GOOD | {name: data for name, (data, _) in BAD_IMAGES.items()}
    for name, data in images.items():
        (folder / "images" / name).write_bytes(data)
        rows.append(row(name, f"images/{name}"))
    rows += [
        row(name, "images/plain") | changes  # type: ignore[operator]
        for name, (changes, _) in BAD_ROWS.items()
    ]
    # The same row twice counts once, also far from its twin; blank lines do not count.
    path = written(folder, [*rows, rows[0], rows[10]])
    path.write_text(path.read_text().replace("\n", "\n\n", 3))
    run = folder / "run"
    result = call_outside(
        "run", "crop", "--input", path, "--output", run, "--local", "--set", "shard_size=7"
    )
    assert result.returncode == 0, result.stderr
    status = call_outside("status", run, "--json")
    assert status.returncode == 0, status.stderr
    facts = json.loads(status.stdout)
    found = [
        one
        for shard in range(facts["num_shards"])
        for table in read_part(Folder.at(str(run)), shard)
        for one in table.to_pylist()
    ]
    assert Counter(one["seed_id"] for one in found) == dict.fromkeys(
        (str(one["id"]) for one in rows), 1
    )
    return {one["seed_id"]: one for one in found}, facts


def test_every_row_is_accounted_for(dropped):
    rows, facts = dropped
    assert set(rows) == {*GOOD, *BAD_IMAGES, *BAD_ROWS}
    assert facts["complete"]
    assert facts["num_seeds"] == facts["num_seeds_done"] == len(rows)
    assert facts["num_duplicates"] == 2
    assert facts["num_pairs"] == len(GOOD)
    assert facts["num_drops"] == len(BAD_IMAGES) + len(BAD_ROWS)
    expected = Counter(reason for _, reason in [*BAD_IMAGES.values(), *BAD_ROWS.values()])
    assert facts["drops"] == {"crop": dict(expected)}


@pytest.mark.parametrize("name", [*BAD_IMAGES, *BAD_ROWS])
def test_a_row_that_will_not_do_is_dropped_with_its_reason(dropped, name):
    rows, _ = dropped
    found = rows[name]
    reason = (BAD_IMAGES | BAD_ROWS)[name][1]
    assert (found["status"], found["reason"], found["stage"]) == ("drop", reason, "loader")
    assert found["detail"]
    assert "\n" not in found["detail"]
    assert len(found["detail"]) < 400
    assert found["source"].startswith("seeds.jsonl line ")


@pytest.mark.parametrize("name", GOOD)
def test_an_unusual_image_is_converted(dropped, name):
    rows, _ = dropped
    found = rows[name]
    assert found["status"] == "pair"
    with PIL.Image.open(io.BytesIO(found["chosen_image"]["bytes"])) as got:
        assert got.mode == "RGB"
        assert got.size == (WIDTH, HEIGHT)
        assert got.getexif().get(0x0112, 1) == 1
        pixels = np.asarray(got).astype(int)
    grey = name in ("grey", "16-bit")
    wanted = np.asarray(gradient("L").convert("RGB") if grey else gradient()).astype(int)
    # CMYK goes through inks and palettes through 200 colours; an inverted or dark one is far off.
    assert np.abs(pixels - wanted).mean() < 12


def test_the_long_answer_does_not_swell_the_run(dropped):
    rows, _ = dropped
    assert len(rows["long-answer"]["chosen"]) < 1000
    assert "10000000 characters" in rows["long-answer"]["detail"]


def refused(result, *words: str) -> None:
    """Exit status 2, and the last line says all these words; only log lines before it."""
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    *before, last = result.stderr.splitlines()
    assert all(" INFO " in line for line in before), result.stderr
    assert last.startswith("nearmiss: ")
    for word in words:
        assert word in last, last


@pytest.fixture
def good(tmp_path) -> Path:
    (tmp_path / "a.jpg").write_bytes(JPEG)
    return written(tmp_path, [row(str(i), "a.jpg") for i in range(4)])


def run(path: Path, *more: object, recipe: str = "crop", output: str = "run"):
    output_path = output if output.startswith("/") else path.parent / output
    args = ("--input", path, "--output", output_path, "--local", *more)
    return call("run", recipe, *args)


@pytest.mark.parametrize("name", ["none.jsonl", "none"])
def test_missing_input(good, name):
    refused(run(good.with_name(name)), f"{good.parent}/{name}: no such file or folder")


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_empty_input(good, content):
    good.write_text(content)
    refused(run(good), "seeds.jsonl", "empty")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"objects": [{"label": "a", "box": [30, 10, 20, 40]}]}, ["field objects[0].box", "30"]),
        ({"objects": [{"label": "a", "box": [1, 2, 3]}]}, ["field objects[0].box"]),
        ({"objects": [{"label": "a", "box": [1, 2, 3, "x"]}]}, ["field objects[0].box"]),
        ({"objects": [{"box": [1, 2, 3, 4]}]}, ["field objects[0]", "label"]),
        ({"objects": "a dog"}, ["field objects"]),
        ({"chosen": 7}, ["field chosen", "7"]),
        ({"image": 7}, ["field image", "7"]),
        ({"id": ""}, ["field id"]),
        ({"id": "0"}, ["field id", "seeds.jsonl line 1", "different prompt"]),
    ],
)
def test_a_row_that_only_a_person_can_put_right(good, change, words):
    with good.open("a") as stream:
        stream.write(json.dumps(row("new", "a.jpg", prompt="Other?") | change) + "\n")
    refused(run(good), "seeds.jsonl", "line 5", *words)


def test_a_mended_input_runs_in_the_same_folder(good):
    text = good.read_text()
    good.write_text(text + json.dumps(row("new", "a.jpg", chosen=7)) + "\n")
    refused(run(good), str(good), "line 5", "field chosen")
    good.write_text(text)
    assert run(good).returncode == 0


def test_ids_that_repeat_can_be_left_aside(good):
    with good.open("a") as stream:
        stream.write(json.dumps(row("0", "a.jpg", prompt="Other?")) + "\n")
    refused(run(good), "field id", "'0' is also the id of seeds.jsonl line 1", "--columns id=")
    assert run(good, "--columns", "id=").returncode == 0
    facts = json.loads(call("status", good.with_name("run"), "--json").stdout)
    # The four rows that differ in nothing but the id are one now.
    assert (facts["num_seeds"], facts["num_duplicates"]) == (2, 3)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'{"id": "x", ', ["not valid JSON"]),
        (b"[1, 2]", ["an object"]),
        (b'{"id": "\xff"}', ["not valid UTF-8"]),
    ],
)
def test_a_line_that_is_no_row(good, line, words):
    good.write_bytes(good.read_bytes() + line + b"\n")
    refused(run(good), str(good), "line 5", *words)


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ("chosen=answer", ["unknown column 'answer'", "seeds.jsonl", "prompt"]),
        ("chosne=answer", ["chosne"]),
        ("chosen", ["--columns chosen", "field=column"]),
        ("preset=none", ["none"]),
        ("chosen=", ["chosen"]),
        ("=answer", ["--columns =answer", "field=column"]),
    ],
)
def test_unknown_columns(good, columns, words):
    refused(run(good, "--columns", columns), *words)


def test_wrong_recipes(good, tmp_path):
    refused(run(good, "--set", "cropper.min_aera=0.1"), "recipe crop: cropper", "min_aera")
    refused(run(good, "--set", "croper.min_area=0.1"), "--set croper.min_area=0.1", "cropper")
    refused(run(good, recipe="corp"), "unknown recipe 'corp'; did you mean crop?")
    mine = tmp_path / "mine.yaml"
    mine.write_text("name: mine\nabout: Mine.\nstages:\n  loader: {max_sid: 3}\n")
    refused(
        run(good, recipe=str(mine)),
        "recipe mine: loader",
        "unknown key 'max_sid'; did you mean max_side?",
    )
    assert not (tmp_path / "run").exists()


def test_wrong_placements(good, tmp_path):
    refused(run(good, "--placement", tmp_path / "none.yaml"), "none.yaml does not exist")
    placement = tmp_path / "mine.yaml"
    placement.write_text("name: mine\ngroups: [{stages: [loader]}]\n")
    refused(run(good, "--placement", placement), "no group runs stage cropper of recipe crop")
    assert not (tmp_path / "run").exists()


def test_an_output_that_cannot_be_written(good, tmp_path):
    refused(run(good, output="a.jpg/run"), f"--output {tmp_path}/a.jpg/run", "cannot be written")
    refused(run(good, output="a.jpg"), f"--output {tmp_path}/a.jpg", "cannot be written")
    refused(run(good, output="/proc/nearmiss"), "--output /proc/nearmiss", "cannot be written")
    if os.geteuid() != 0:
        locked = tmp_path / "locked"
        locked.mkdir(mode=0o500)
        refused(run(good, output="locked/run"), "locked/run", "cannot be written")


def test_a_run_directory_of_something_else(good):
    assert run(good).returncode == 0
    refused(run(good, recipe="flip"), "run of another recipe", "recipe crop (now flip)", "--output")
    refused(run(good, "--set", "cropper.attempts=3"), "run of another recipe", "recipe_digest")
    refused(run(good, "--seed", 3), "run of another seed: seed 0 (now 3)")
    refused(run(good, "--limit", 2), "run of another limit: limit None (now 2)")
    with good.open("a") as stream:
        stream.write(json.dumps(row("new", "a.jpg")) + "\n")
    refused(run(good), "run of another input", "input_digest")


def test_a_folder_with_something_else_is_not_taken_for_a_run(good, tmp_path):
    """Nothing of the user's is overwritten or removed."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    assert run(good).returncode == 0
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"


def test_a_second_driver(tmp_path):
    bench = Bench(tmp_path)
    first = bench.driver(Trouble(sleep_s=0.5), local=True)
    try:
        while not (bench.run_dir / "lease.json").exists():
            assert first.poll() is None
            time.sleep(0.05)
        second = call_outside(
            "run", "crop", "--input", bench.input, "--output", bench.run_dir, "--local"
        )
        refused(second, str(bench.run_dir), f"another driver works here (process {first.pid}")
    finally:
        first.kill()
        first.communicate()
