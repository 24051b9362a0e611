"""CounterCurate and FineCops-Ref as rows: released pairs whose halves lie in several files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from pipeline.sources.files import Input, InputFile
from pipeline.sources.formats.errors import Place, shown
from pipeline.sources.formats.text import PlacedRow, load_json
from schemas.records import Kind
from stages.read.inputs import filesystem_of

Part = TypeVar("Part", list[Any], dict[str, Any], str)

_KINDS: Mapping[type, str] = {list: "a list", dict: "an object", str: "a text"}
"""What a person calls the parts of a JSON file."""

RELEASED_PAIR_COLUMNS = [
    "id",
    "image",
    "chosen",
    "counterfactual_image",
    "counterfactual",
    "kind",
    "source",
]

_MOVED = {
    "counting.json": Kind.COUNT,
    "left_right.json": Kind.POSITION,
    "up_down.json": Kind.RELATION,
}
"""Files {image: [{image_id, pos, neg}]} of CounterCurate, with what differs. Left and right are
exchanged by mirroring; above and below by drawing both things anew, so those pairs are filtered as
other generated ones are."""
_CHANGED = {"noun": Kind.OBJECT, "adjective": Kind.ATTRIBUTE, "reverse": Kind.RELATION}
"""Keys of dalle_gen_counterfactuals.json, with what differs; "reverse" exchanges two things."""
_ORDER = "order"
"""FineCops-Ref's category of reordered expressions, which MVC leaves out: the image is the same
for a person, only the sentence is odd."""


def countercurate_rows(source: Input) -> Iterator[PlacedRow]:
    """The pairs of `train_data/`, in the order of its files.

    Images are named as its own scripts name them (prep_clip_pos_count.py, prep_clip_attr.py):
    `{kind}/pos/{image}.jpg` with `{kind}/neg/{image}_{image_id}.png`, or `.jpg`, or
    `{image}.jpg`; `flickr30k-images/{image}.jpg` with
    `dalle_gen_counterfactuals/{image}_{change}.jpg`. Pairs whose negative was never drawn are
    left out, as there.
    """
    files = {file.name: file for file in source.files}
    for name, kind in _MOVED.items():
        if name in files:
            yield from _moved(source.url, files[name], kind)
    if "dalle_gen_counterfactuals.json" in files:
        captions_file = files.get("flickr30k_image_captions.json")
        captions = {} if captions_file is None else _first_captions(captions_file)
        yield from _changed(source.url, files["dalle_gen_counterfactuals.json"], captions)


def _moved(root: str, file: InputFile, kind: Kind) -> Iterator[PlacedRow]:
    folder = file.name.removesuffix(".json")
    drawn = _names(f"{root}/{folder}/neg")
    number = 0
    for image, pairs in load_json(file, dict).items():
        for item in _as(list, pairs, Place(file.url, file.name, "pair", number), image):
            place = Place(file.url, file.name, "pair", number)
            number += 1
            _as(dict, item, place, "pair")
            tried = f"{image}_{item.get('image_id')}"
            names = (f"{tried}.png", f"{tried}.jpg", f"{image}.jpg")
            negative = next((name for name in names if name in drawn), None)
            if negative is None:
                continue
            yield PlacedRow(
                place,
                {
                    "id": f"countercurate/{folder}/{tried}",
                    "image": f"{folder}/pos/{image}.jpg",
                    "chosen": item.get("pos"),
                    "counterfactual_image": f"{folder}/neg/{negative}",
                    "counterfactual": item.get("neg"),
                    "kind": str(kind),
                },
            )


def _first_captions(file: InputFile) -> dict[str, str]:
    """The first caption of each image that has any."""
    first = {}
    for number, (image, captions) in enumerate(load_json(file, dict).items()):
        place = Place(file.url, file.name, "image", number)
        for caption in _as(list, captions, place, image)[:1]:
            first[image] = _as(str, caption, place, image)
    return first


def _changed(root: str, file: InputFile, captions: Mapping[str, str]) -> Iterator[PlacedRow]:
    drawn = _names(f"{root}/dalle_gen_counterfactuals")
    number = 0
    for image, changes in load_json(file, dict).items():
        of_image = Place(file.url, file.name, "pair", number)
        for change, caption in _as(dict, changes, of_image, image).items():
            place = Place(file.url, file.name, "pair", number)
            number += 1
            negative = f"{image}_{change}.jpg"
            if caption is None or negative not in drawn:
                continue
            if change not in _CHANGED:
                raise place.error("change", f"found {shown(change)}", ", ".join(_CHANGED))
            yield PlacedRow(
                place,
                {
                    "id": f"countercurate/{image}_{change}",
                    "image": f"flickr30k-images/{image}.jpg",
                    "chosen": captions.get(image),
                    "counterfactual_image": f"dalle_gen_counterfactuals/{negative}",
                    "counterfactual": caption,
                    "kind": str(_CHANGED[change]),
                },
            )


def finecops_rows(source: Input) -> Iterator[PlacedRow]:
    """The negatives with an image of their own, each with the positive it was made from.

    Keys as its documentation names them: positives {id, image_id, expression}, negatives with
    {positive_id, negative_type, negative_cate} besides. Images are `{image_id}.jpg` below
    `images/`, or where `--image-root` says. Negatives of text alone, and those of the category
    "order", are left out.
    """
    files = {file.name: file for file in source.files}
    positives = {
        _id(item["id"], place, "id"): item
        for place, item in _items(files["positive.json"])
        if item.get("id") is not None
    }
    for place, item in _items(files["negative.json"]):
        if item.get("negative_cate") != "image":
            continue
        sort = str(item.get("negative_type", "")).casefold()
        if _ORDER in sort:
            continue
        positive = positives.get(_id(item.get("positive_id"), place, "positive_id"))
        if positive is None:
            found = f"found {shown(item.get('positive_id'))}"
            raise place.error("positive_id", found, "the id of an item of positive.json")
        yield PlacedRow(
            place,
            {
                "id": f"finecops-ref/{item.get('id')}",
                "image": f"images/{positive.get('image_id')}.jpg",
                "chosen": positive.get("expression"),
                "counterfactual_image": f"images/{item.get('image_id')}.jpg",
                "counterfactual": item.get("expression"),
                "kind": str(_finecops_kind(sort)),
            },
        )


def _items(file: InputFile) -> Iterator[tuple[Place, dict[str, Any]]]:
    """The objects of a JSON list, each with its place."""
    for number, item in enumerate(load_json(file, list)):
        place = Place(file.url, file.name, "item", number)
        yield place, _as(dict, item, place, "item")


def _as(kind: type[Part], value: Any, place: Place, field: str) -> Part:
    """The value, which must be of that kind; SourceError otherwise."""
    if not isinstance(value, kind):
        raise place.error(field, f"found {shown(value)}", _KINDS[kind])
    return value


def _id(value: Any, place: Place, field: str) -> str | int | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, str | int)):
        raise place.error(field, f"found {shown(value)}", "a text or a whole number")
    return value


def _finecops_kind(sort: str) -> Kind:
    if "att" in sort:
        return Kind.ATTRIBUTE
    return Kind.RELATION if "rel" in sort else Kind.OBJECT


def _names(folder: str) -> frozenset[str]:
    """Names of the files in a folder; none where it does not exist."""
    filesystem, path = filesystem_of(folder)
    if not filesystem.isdir(path):
        return frozenset()
    return frozenset(str(name).rpartition("/")[2] for name in filesystem.ls(path, detail=False))
