"""COCO annotation files as rows: captions, boxes and masks of one image together."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, ClassVar

import numpy as np
import PIL.Image
import PIL.ImageDraw

from pipeline.sources.cells import xyxy
from pipeline.sources.columns import Mapped
from pipeline.sources.errors import Place, SourceError, shown
from pipeline.sources.files import Found, InputFile, first_folder
from pipeline.sources.formats.base import Format, Input, PlacedRow
from pipeline.sources.json_text import load_json, start_of
from pipeline.sources.rle import unpacked
from schemas.geometry import Mask


class Coco(Format):
    """Captions, and the boxes and masks of the instances file of the same split beside them."""

    name = "coco"
    known_by = "captions_*.json"
    suffixes = (".json",)
    columns = ("id", "image", "prompt", "chosen", "rejected", "objects", "source", "license")
    defaults: ClassVar[Mapping[str, str]] = {"prompt": "Describe the image."}

    def find(self, found: Found) -> Input | None:
        """One captions file, or a file of the same content under another name."""
        names = [name for name in found.ending(".json") if _is_captions(name)]
        if len(names) > 1:
            listed = ", ".join(names)
            raise SourceError(f"{found.url}: holds several caption files ({listed}); name one")
        if names:
            folder, slash, name = names[0].rpartition("/")
            instances = f"{folder}{slash}{name.replace('captions_', 'instances_', 1)}"
            files = [_named_alone(found.file(names[0]))]
            if found.has(instances):
                files.append(_named_alone(found.file(instances)))
            return Input(files[0].url, self, tuple(files))
        file = found.only(".json")
        return Input(file.url, self, (file,)) if file is not None and _is_coco(file) else None

    def rows(self, source: Input, mapped: Mapped) -> Iterator[PlacedRow]:
        """One row an image: its first caption, its instances (crowds left out), its licence."""
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
            labels.update(
                {_key(c, "id"): c.get("name") for c in _list(content, "categories", file)}
            )
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
                        _object(p, a, image, labels)
                        for p, a in instances.get(_key(image, "id"), [])
                    ],
                    "license": licenses.get(_key(image, "license")),
                },
            )

    def image_root(self, source: Input, file: str) -> str:
        """Where the images lie, if people unpacked them as COCO says; else beside the captions."""
        captions = source.files[0]
        split = PurePosixPath(captions.name).stem.removeprefix("captions_")
        inside, above = captions.folder, captions.folder.rpartition("/")[0]
        return first_folder(
            f"{inside}/{split}", f"{above}/{split}", f"{inside}/images", f"{above}/images", inside
        )


def _is_captions(name: str) -> bool:
    return PurePosixPath(name).name.startswith("captions_")


def _named_alone(file: InputFile) -> InputFile:
    """The file under its last name: annotations read the same from whichever folder was named."""
    name = PurePosixPath(file.name).name
    return InputFile(file.url, name, name)


def _is_coco(file: InputFile) -> bool:
    start = start_of(file)
    first_line = start.split(b"\n", 1)[0]
    marked = b'"annotations"' in start or b'"images": [{' in start
    return first_line.startswith(b"{") and marked


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
        image_mask = PIL.Image.new("1", (int(image["width"]), int(image["height"])))
        pen = PIL.ImageDraw.Draw(image_mask)
        for polygon in segmentation:
            if len(polygon) >= 6:  # real files hold a few polygons of two points
                pen.polygon([float(v) for v in polygon], fill=1)
        mask = Mask.from_array(np.array(image_mask, dtype=bool))
    except (KeyError, TypeError, ValueError) as error:
        raise place.error(
            "segmentation",
            f"found {shown(segmentation)} ({type(error).__name__}: {error})",
            "polygons of an image with width and height, or run lengths",
        ) from error
    return mask if mask.area else None
