"""Synthetic scenes with exact ground truth: coloured shapes on textured backgrounds.

For volume, tests and benchmarks. A scene depends on (seed, index, side) alone. Knows images and
sentences, not recipes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.demo.backgrounds import Background, paint_background
from pipeline.demo.sentences import Answers, Thing, write_answers
from schemas.geometry import Box
from schemas.ids import row_seed
from schemas.records import Image
from stages.pixels import Pixels, encode_jpeg

COLORS: dict[str, tuple[int, int, int]] = {
    "red": (205, 35, 40),
    "orange": (240, 130, 25),
    "yellow": (240, 210, 40),
    "green": (45, 150, 65),
    "blue": (40, 85, 200),
    "purple": (125, 55, 165),
    "pink": (240, 130, 175),
}
"""Colour names and their middle sRGB value; objects vary around it by shading only."""

SHAPES = ("circle", "square", "triangle", "star", "ring", "cross")

LICENSE = "CC0-1.0"

IMAGE_STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])

PARQUET_SCHEMA: pa.Schema = pa.schema(
    [
        ("id", pa.string()),
        ("image", IMAGE_STRUCT),
        ("prompt", pa.string()),
        ("chosen", pa.string()),
        ("rejected", pa.string()),
        (
            "objects",
            pa.list_(pa.struct([("label", pa.string()), ("box", pa.list_(pa.float64()))])),
        ),
        ("source", pa.string()),
        ("license", pa.string()),
    ]
)
"""Columns of native Parquet input."""

_ROWS_PER_GROUP = 256


@dataclass(frozen=True)
class SceneObject:
    """One shape of a scene."""

    label: str
    """Colour and shape: "red circle"."""
    box: Box
    """Tight xyxy pixels of `mask`."""
    mask: NDArray[np.bool_]
    """bool [H, W]: every pixel that the shape touches, its soft edge included."""


@dataclass(frozen=True)
class Scene:
    """An image, what is in it, and answers about it."""

    scene_id: str
    """"scene-<seed>-<index>"."""
    pixels: Pixels
    """uint8 [side, side, 3] RGB."""
    background: Background
    """What the shapes lie on."""
    objects: tuple[SceneObject, ...]
    """One to six shapes that do not touch each other, in drawing order."""
    prompt: str
    """A question."""
    chosen: str
    """An answer that is true of the image."""
    rejected: str
    """An ordinary wrong answer."""
    source: str
    """How to make the scene again."""


def scene(seed: int, index: int, side: int = 384) -> Scene:
    """The scene number `index` of a seed, `side` pixels wide and high (at least 75)."""
    rng = np.random.default_rng(row_seed(seed, f"scene-{index}", "scene"))
    answers: Answers = write_answers(rng, tuple(COLORS), SHAPES)
    canvas, objects = paint(rng, answers.background, answers.things, side)
    return Scene(
        scene_id=f"scene-{seed}-{index:05d}",
        pixels=canvas,
        background=answers.background,
        objects=objects,
        prompt=answers.prompt,
        chosen=answers.chosen,
        rejected=answers.rejected,
        source=f"nearmiss scene, seed {seed}, index {index}, side {side}",
    )


def paint(
    rng: np.random.Generator, background: Background, things: tuple[Thing, ...], side: int
) -> tuple[Pixels, tuple[SceneObject, ...]]:
    """An image of the things, at most nine, that do not touch each other; and where they are."""
    if side < 75:  # below, the largest shape and its soft edge do not fit into a cell
        raise ValueError(f"side is {side}; a scene needs at least 75 pixels")
    canvas = paint_background(rng, background, side)
    cells = _cells(rng, things)
    objects = tuple(
        _draw(rng, canvas, thing, cell) for thing, cell in zip(things, cells, strict=True)
    )
    return canvas, objects


def scene_row(painted: Scene, image: object) -> dict[str, Any]:
    """The scene as a row of native input; `image` is a path or an `Image` struct."""
    return {
        "id": painted.scene_id,
        "image": image,
        "prompt": painted.prompt,
        "chosen": painted.chosen,
        "rejected": painted.rejected,
        "objects": [{"label": o.label, "box": list(o.box)} for o in painted.objects],
        "source": painted.source,
        "license": LICENSE,
    }


def write_scenes(
    folder: Path,
    num: int,
    seed: int = 0,
    side: int = 384,
    format: Literal["jsonl", "parquet"] = "jsonl",  # noqa: A002  the word a caller expects
) -> Path:
    """Write scenes 0 to `num` - 1 as native input; returns the file to give to `--input`.

    "jsonl" writes `seeds.jsonl` beside `images/`; "parquet" writes `seeds.parquet` with the images
    embedded as Hugging Face structs. All are JPEG, but for every eighth, which is PNG.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if format == "jsonl":
        path = folder / "seeds.jsonl"
        with path.open("w", encoding="utf-8") as file:
            file.writelines(
                json.dumps(row, ensure_ascii=False) + "\n"
                for row in scene_files(folder, num, seed, side)
            )
        return path
    path = folder / "seeds.parquet"
    with pq.ParquetWriter(path, PARQUET_SCHEMA) as writer:
        for start in range(0, num, _ROWS_PER_GROUP):
            rows = []
            for index in range(start, min(num, start + _ROWS_PER_GROUP)):
                painted = scene(seed, index, side)
                image = _encode(painted, index)
                rows.append(scene_row(painted, {"bytes": image.bytes, "path": image.path}))
            writer.write_table(pa.Table.from_pylist(rows, schema=PARQUET_SCHEMA))
    return path


def scene_files(folder: Path, num: int, seed: int = 0, side: int = 384) -> Iterator[dict[str, Any]]:
    """Write the images of scenes 0 to `num` - 1 under `folder/images`; yields their input rows."""
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    for index in range(num):
        painted = scene(seed, index, side)
        image = _encode(painted, index)
        assert image.path is not None
        (images / image.path).write_bytes(image.bytes)
        yield scene_row(painted, f"images/{image.path}")


def _encode(painted: Scene, index: int) -> Image:
    # A few PNG files, so that whatever reads the input meets both codecs.
    if index % 8 != 7:
        return encode_jpeg(painted.pixels, f"{painted.scene_id}.jpg")
    done, data = cv2.imencode(".png", painted.pixels[:, :, ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 1])
    assert done
    return Image(data.tobytes(), f"{painted.scene_id}.png")


def _cells(rng: np.random.Generator, things: tuple[Thing, ...]) -> list[tuple[int, int]]:
    """A cell (column, row) of the 3 x 3 grid for each thing, so that no two can touch."""
    free = [(int(k) % 3, int(k) // 3) for k in rng.permutation(9)]
    columns = {"left": (0,), "right": (2,), None: (0, 1, 2)}
    taken = []
    for thing in things:
        cell = next(c for c in free if c[0] in columns[thing.side])
        free.remove(cell)
        taken.append(cell)
    return taken


def _draw(
    rng: np.random.Generator, canvas: Pixels, thing: Thing, cell: tuple[int, int]
) -> SceneObject:
    """Blend one shape into the canvas."""
    side = canvas.shape[0]
    radius = side * rng.uniform(0.09, 0.14)
    slack = side / 6 - radius - 2  # 2 px: the soft edge of a neighbour
    center = (np.array(cell) + 0.5) * side / 3 + rng.uniform(-slack, slack, 2)
    alpha = _alpha(thing.shape, side, center, radius, float(rng.uniform(-0.25, 0.25)))
    mask = alpha > 0
    rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    box = Box(*(float(v) for v in (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)))
    x0, y0, x1, y1 = (int(v) for v in box)
    # Light from the upper left, and a little grain: a flat fill would compress and match too well.
    ramp = np.linspace(1.12, 0.86, x1 - x0) + np.linspace(0.06, -0.06, y1 - y0)[:, None]
    grain = rng.normal(0, 3, ramp.shape)
    fill = np.array(COLORS[thing.color]) * ramp[:, :, None] + grain[:, :, None]
    weight = alpha[y0:y1, x0:x1, None] / 255.0
    under = canvas[y0:y1, x0:x1]
    canvas[y0:y1, x0:x1] = np.clip(under + weight * (fill - under) + 0.5, 0, 255)
    return SceneObject(f"{thing.color} {thing.shape}", box, mask)


def _alpha(
    shape: str, side: int, center: NDArray[np.float64], radius: float, angle: float
) -> NDArray[np.uint8]:
    """uint8 [side, side]: how much of each pixel the shape covers, 255 for all of it."""
    alpha = np.zeros((side, side), np.uint8)
    outlines = {
        "circle": [(_polygon(64), 255)],
        "ring": [(_polygon(64), 255), (_polygon(64) * 0.55, 0)],
        "square": [(_polygon(4, np.pi / 4), 255)],
        "triangle": [(_polygon(3), 255)],
        "star": [(_polygon(10) * np.tile([[1.0], [0.45]], (5, 1)), 255)],
        "cross": [(_CROSS, 255)],
    }
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    for outline, value in outlines[shape]:
        points = (outline * radius) @ turn.T + center
        # Four fractional bits, anti-aliased.
        fixed = np.round(points * 16).astype(np.int32)
        cv2.fillPoly(alpha, [fixed], value, cv2.LINE_AA, 4)
    return alpha


def _polygon(corners: int, start: float = 0.0) -> NDArray[np.float64]:
    """Corners of a regular polygon in the unit circle, the first one at the top."""
    angles = start - np.pi / 2 + 2 * np.pi * np.arange(corners) / corners
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


_CROSS: NDArray[np.float64] = (
    np.array(
        [
            (-1, -3), (1, -3), (1, -1), (3, -1), (3, 1), (1, 1),
            (1, 3), (-1, 3), (-1, 1), (-3, 1), (-3, -1), (-1, -1),
        ]
    )
    / 3.17
)  # fmt: skip
"""A plus sign inside the unit circle."""
