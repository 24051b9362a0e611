"""CounterCurate: released pairs whose halves lie in several files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

from pipeline.sources.columns import Mapped
from pipeline.sources.errors import Place, shown
from pipeline.sources.files import Found, InputFile, names_in
from pipeline.sources.formats.base import Format, Input, PlacedRow
from pipeline.sources.json_text import as_kind, load_json
from schemas.records import Kind

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
_CHANGES_FILE = "dalle_gen_counterfactuals.json"
_CAPTIONS_FILE = "flickr30k_image_captions.json"


class CounterCurate(Format):
    """The pairs of `train_data/`, in the order of its files.

    Images are named as its own scripts name them (prep_clip_pos_count.py, prep_clip_attr.py):
    `{kind}/pos/{image}.jpg` with `{kind}/neg/{image}_{image_id}.png`, or `.jpg`, or
    `{image}.jpg`; `flickr30k-images/{image}.jpg` with
    `dalle_gen_counterfactuals/{image}_{change}.jpg`. Pairs whose negative was never drawn are
    left out, as there.
    """

    name = "countercurate"
    known_by = "counting.json, left_right.json, ..."
    suffixes = (".json",)
    columns = (
        "id",
        "image",
        "chosen",
        "counterfactual_image",
        "counterfactual",
        "kind",
        "source",
    )
    defaults: ClassVar[Mapping[str, str]] = {"prompt": "Describe the image."}

    def find(self, found: Found) -> Input | None:
        """A folder that holds any of its files."""
        known = (*_MOVED, _CHANGES_FILE, _CAPTIONS_FILE)
        files = tuple(found.file(name) for name in known if name in found.names)
        return Input(found.url, self, files) if files and found.is_folder else None

    def rows(self, source: Input, mapped: Mapped) -> Iterator[PlacedRow]:
        """One row a pair: an image with its caption, and the negative with its own."""
        files = {file.name: file for file in source.files}
        for name, kind in _MOVED.items():
            if name in files:
                yield from _moved(source.url, files[name], kind)
        if _CHANGES_FILE in files:
            captions_file = files.get(_CAPTIONS_FILE)
            captions = {} if captions_file is None else _first_captions(captions_file)
            yield from _changed(source.url, files[_CHANGES_FILE], captions)

    def image_root(self, source: Input, file: str) -> str:
        """The folder itself."""
        return source.url


def _moved(root: str, file: InputFile, kind: Kind) -> Iterator[PlacedRow]:
    folder = file.name.removesuffix(".json")
    drawn = names_in(f"{root}/{folder}/neg")
    number = 0
    for image, pairs in load_json(file, dict).items():
        for item in as_kind(list, pairs, Place(file.url, file.name, "pair", number), image):
            place = Place(file.url, file.name, "pair", number)
            number += 1
            as_kind(dict, item, place, "pair")
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
        for caption in as_kind(list, captions, place, image)[:1]:
            first[image] = as_kind(str, caption, place, image)
    return first


def _changed(root: str, file: InputFile, captions: Mapping[str, str]) -> Iterator[PlacedRow]:
    drawn = names_in(f"{root}/dalle_gen_counterfactuals")
    number = 0
    for image, changes in load_json(file, dict).items():
        of_image = Place(file.url, file.name, "pair", number)
        for change, caption in as_kind(dict, changes, of_image, image).items():
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
