"""COCO annotation files as rows: captions, boxes and masks of one image together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageDraw

from pipeline.sources.files import Input, InputFile
from pipeline.sources.formats.errors import Place, SourceError, shown
from pipeline.sources.formats.rle import unpacked
from pipeline.sources.formats.text import PlacedRow, load_json
from schemas.geometry import Mask
from stages.read.inputs import filesystem_of

COCO_COLUMNS = ["id", "image", "prompt", "chosen", "rejected", "objects", "source", "license"]


def coco_rows(source: Input) -> Iterator[PlacedRow]:
    """One row per image: its first caption, its instances (crowds left out), its licence."""
    captions_file, *instances_files = source.files
    captions = load_json(captions_file, dict)
    first_caption: dict[Any, str] = {}
    for annotation in _list(captions, "annotations", captions_file):
        if "caption" in annotation:
            first_caption.setdefault(_key(annotation, "image_id"), annotation["caption"])
    instances: dict[Any, list[tuple[Place, Mapping[str, Any]]]] = defaultdict(list)
    labels: dict[Any, str] = {}
    for file in instances_files:
        content = load_json(file, dict)
        labels.update({_key(c, "id"): c.get("name") for c in _list(content, "categories", file)})
        for number, annotation in enumerate(_list(content, "annotations", file)):
            if not annotation.get("iscrowd"):
                place = Place(file.url, file.name, "annotation", number)
                instances[_key(annotation, "image_id")].append((place, annotation))
    licenses = {
        _key(entry, "id"): entry.get("name") or entry.get("url")
        for entry in captions.get("licenses", [])
    }
    for number, image in enumerate(_list(captions, "images", captions_file)):
        place = Place(captions_file.url, captions_file.name, "image", number)
        yield PlacedRow(
            place,
            {
                "id": image.get("id"),
                "image": image.get("file_name"),
                "chosen": first_caption.get(_key(image, "id")),
                "objects": [
                    _object(p, a, image, labels) for p, a in instances.get(_key(image, "id"), [])
                ],
                "license": licenses.get(_key(image, "license")),
            },
        )


def coco_image_root(source: Input) -> str:
    """Where the images lie, if they lie where people unpack COCO; else beside the captions."""
    captions = source.files[0]
    split = PurePosixPath(captions.name).stem.removeprefix("captions_")
    above = captions.folder.rpartition("/")[0]
    for folder in (
        f"{captions.folder}/{split}",
        f"{above}/{split}",
        f"{captions.folder}/images",
        f"{above}/images",
    ):
        filesystem, path = filesystem_of(folder)
        if filesystem.isdir(path):
            return folder
    return captions.folder


def _list(content: Mapping[str, Any], key: str, file: InputFile) -> list[Mapping[str, Any]]:
    value = content.get(key)
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise SourceError(f"{file.url}, field {key}: found {shown(value)}; allowed: a list")
    return value


def _key(entry: Mapping[str, Any], name: str) -> Any:
    """An id that other entries refer to."""
    value = entry.get(name)
    return value if isinstance(value, int | str) else None


def _object(
    place: Place,
    annotation: Mapping[str, Any],
    image: Mapping[str, Any],
    labels: Mapping[Any, str],
) -> Mapping[str, Any]:
    category = _key(annotation, "category_id")
    if category not in labels:
        raise place.error("category_id", f"no category {shown(category)}", "an id of categories")
    return {
        "label": labels[category],
        "box": xyxy(place, "bbox", annotation.get("bbox")),
        "mask": _mask(place, annotation.get("segmentation"), image),
    }


def xyxy(place: Place, field: str, bbox: Any) -> list[float]:
    """A box given as [x, y, width, height]."""
    numbers = isinstance(bbox, list) and all(
        isinstance(v, int | float) and not isinstance(v, bool) for v in bbox
    )
    if not numbers or len(bbox) != 4 or not bbox[2] >= 0 or not bbox[3] >= 0:
        raise place.error(field, f"found {shown(bbox)}", "[x, y, width, height] in pixels")
    x, y, width, height = bbox
    return [x, y, x + width, y + height]


def _mask(place: Place, segmentation: Any, image: Mapping[str, Any]) -> Mask | None:
    """The mask of polygons [[x, y, x, y, ...], ...] or of run lengths, packed or not."""
    if not segmentation:
        return None
    try:
        if isinstance(segmentation, Mapping):
            height, width = segmentation["size"]
            counts = segmentation["counts"]
            runs = unpacked(counts) if isinstance(counts, str) else counts
            return Mask(int(height), int(width), tuple(int(run) for run in runs))
        # Pixels are drawn where a polygon covers them; parts of one object are joined.
        picture = PIL.Image.new("1", (int(image["width"]), int(image["height"])))
        pen = PIL.ImageDraw.Draw(picture)
        for polygon in segmentation:
            if len(polygon) >= 6:  # real files hold a few polygons of two points
                pen.polygon([float(v) for v in polygon], fill=1)
        mask = Mask.from_array(np.array(picture, dtype=bool))
    except (KeyError, TypeError, ValueError) as error:
        raise place.error(
            "segmentation",
            f"found {shown(segmentation)} ({type(error).__name__}: {error})",
            "polygons of an image with width and height, or run lengths",
        ) from error
    return mask if mask.area else None
