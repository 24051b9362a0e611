"""The demo's real photographs: they ship inside scikit-image, our annotations beside this file.

Nothing is downloaded and scikit-image is not run: its wheel is only a folder of images here.
"""

from __future__ import annotations

import json
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any


def annotated_rows() -> list[dict[str, Any]]:
    """Rows of `photos.jsonl`: native input whose `image` is a file name of `skimage/data`."""
    text = files("pipeline.demo").joinpath("photos.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def photo(name: str) -> Traversable:
    """The image of this name in the installed scikit-image; ValueError if it is not there."""
    try:
        path = files("skimage").joinpath("data", name)
    except ModuleNotFoundError as error:
        raise ValueError(
            "the demo's photos come with scikit-image, which is not installed; "
            'run: pip install "nearmiss[demo]"'
        ) from error
    if not path.is_file():
        raise ValueError(
            f"the installed scikit-image has no image {name}; "
            'run: pip install --force-reinstall "nearmiss[demo]"'
        )
    return path


def write_photos(folder: Path) -> list[dict[str, Any]]:
    """Copy the photos to `folder/images`; returns the input rows that point there."""
    images = folder / "images"
    images.mkdir(parents=True, exist_ok=True)
    rows = annotated_rows()
    for name in sorted({row["image"] for row in rows}):
        (images / name).write_bytes(photo(name).read_bytes())
    return [{**row, "image": f"images/{row['image']}"} for row in rows]
