"""A Visual Genome folder as rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any, ClassVar

from pipeline.sources.cells import xyxy
from pipeline.sources.columns import Mapped
from pipeline.sources.errors import Place, SourceError
from pipeline.sources.files import Found, InputFile, first_folder
from pipeline.sources.formats.base import Format, Input, PlacedRow
from pipeline.sources.json_text import load_json

_NUM_PHRASES = 3
"""Region phrases that make up the answer: about as long as a caption, and still true of the image
when read one after the other."""


class VisualGenome(Format):
    """`image_data.json` and what lies beside it, each file loaded whole."""

    name = "visual_genome"
    known_by = "image_data.json"
    suffixes = (".json",)
    columns = ("id", "image", "prompt", "chosen", "objects", "source", "license")
    defaults: ClassVar[Mapping[str, str]] = {
        "prompt": "Describe the image.",
        "license": "CC BY 4.0",
    }

    def find(self, found: Found) -> Input | None:
        """The folder, named itself or by its `image_data.json`."""
        if self.known_by not in found.names:
            return None
        beside = [f"{name}.json" for name in ("objects", "attributes", "region_descriptions")]
        names = [self.known_by, *(name for name in beside if found.has(name))]
        return Input(found.folder, self, tuple(found.file(name) for name in names))

    def rows(self, source: Input, mapped: Mapped) -> Iterator[PlacedRow]:
        """One row an image, with its objects, their attributes, its phrases."""
        files = {file.name: file for file in source.files}
        images_file = files["image_data.json"]
        objects = _by_image(files.get("objects.json"), "objects")
        attributes = _attributes(files.get("attributes.json"))
        regions = _by_image(files.get("region_descriptions.json"), "regions")
        for number, image in enumerate(load_json(images_file, list)):
            place = Place(images_file.url, images_file.name, "item", number)
            key = _image_id(image)
            if key is None:
                raise place.error("image_id", f"found {image!r:.60}", "an object with image_id")
            phrases = [str(region.get("phrase", "")) for region in regions.get(key, [])]
            annotated = enumerate(objects.get(key, []))
            cells = {
                "id": key,
                "image": _image_name(image),
                "chosen": answer(phrases),
                "objects": [_object(place, index, item, attributes) for index, item in annotated],
            }
            yield PlacedRow(place, cells)

    def image_root(self, source: Input, file: str) -> str:
        """Where the images lie: in the folder `images`, or beside the annotations."""
        folder = source.files[0].folder
        return first_folder(f"{folder}/images", folder)


def answer(phrases: list[str]) -> str | None:
    """The longest distinct region phrases, in the order of the file, as sentences.

    Region phrases are short ("the sky is blue", "a man on a horse"); the longest say most, and each
    was written by a person looking at this image. None where there are no phrases.
    """
    distinct: dict[str, str] = {}
    for phrase in phrases:
        text = " ".join(phrase.split()).rstrip(".!? ")
        if text:
            distinct.setdefault(text.casefold(), text)
    longest = sorted(distinct.values(), key=lambda text: -len(text.split()))[:_NUM_PHRASES]
    ordered = [text for text in distinct.values() if text in longest]
    return " ".join(f"{text[0].upper()}{text[1:]}." for text in ordered) or None


def _by_image(file: InputFile | None, key: str) -> dict[Any, list[Mapping[str, Any]]]:
    if file is None:
        return {}
    entries = load_json(file, list)
    found: dict[Any, Any] = {
        _image_id(entry): entry.get(key) for entry in entries if isinstance(entry, dict)
    }
    for image, items in found.items():
        if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
            raise SourceError(f"{file.url}, image {image!r}: {key} is not a list of objects")
    return found


def _image_id(entry: Any) -> Any:
    # region_descriptions.json of some releases calls it `id`.
    return entry.get("image_id", entry.get("id")) if isinstance(entry, dict) else None


def _attributes(file: InputFile | None) -> dict[Any, list[str]]:
    """Attributes by object id, which is unique over the whole data set."""
    return {
        item.get("object_id"): [str(a) for a in item.get("attributes") or []]
        for items in _by_image(file, "attributes").values()
        for item in items
    }


def _image_name(image: Mapping[str, Any]) -> str:
    """The last two parts of the URL, as people unpack the archives: VG_100K_2/1.jpg."""
    url = image.get("url")
    if not isinstance(url, str) or "/" not in url:
        return f"{_image_id(image)}.jpg"
    return "/".join(PurePosixPath(url).parts[-2:])


def _object(
    place: Place, index: int, item: Mapping[str, Any], attributes: Mapping[Any, list[str]]
) -> Mapping[str, Any]:
    names = item.get("names") or [item.get("name")]
    own = item.get("attributes") or attributes.get(item.get("object_id"), [])
    box = [item.get("x"), item.get("y"), item.get("w"), item.get("h")]
    return {
        "label": names[0],
        "box": xyxy(place, f"objects[{index}] (x, y, w, h)", box),
        "attributes": list(dict.fromkeys(a.strip() for a in own if a.strip())),
    }
