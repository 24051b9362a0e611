"""FineCops-Ref: referring expressions, each with the negatives that were made from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

from pipeline.sources.columns import Mapped
from pipeline.sources.errors import Place, shown
from pipeline.sources.files import Found, InputFile
from pipeline.sources.formats.base import Format, Input, PlacedRow
from pipeline.sources.json_text import as_kind, load_json
from schemas.records import Kind

_ORDER = "order"
"""FineCops-Ref's category of reordered expressions, which MVC leaves out: the image is the same
for a person, only the sentence is odd."""


class FineCopsRef(Format):
    """The negatives with an image of their own, each with the positive it was made from.

    Keys as its documentation names them: positives {id, image_id, expression}, negatives with
    {positive_id, negative_type, negative_cate} besides. Images are `{image_id}.jpg` below
    `images/`, or where `--image-root` says. Negatives of text alone, and those of the category
    "order", are left out.
    """

    name = "finecops_ref"
    known_by = "positive.json and negative.json"
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
        """A folder that holds both files."""
        names = ("positive.json", "negative.json")
        whole = found.is_folder and all(name in found.names for name in names)
        return Input(found.url, self, tuple(map(found.file, names))) if whole else None

    def rows(self, source: Input, mapped: Mapped) -> Iterator[PlacedRow]:
        """One row a negative."""
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

    def image_root(self, source: Input, file: str) -> str:
        """The folder itself."""
        return source.url


def _items(file: InputFile) -> Iterator[tuple[Place, dict[str, Any]]]:
    """The objects of a JSON list, each with its place."""
    for number, item in enumerate(load_json(file, list)):
        place = Place(file.url, file.name, "item", number)
        yield place, as_kind(dict, item, place, "item")


def _id(value: Any, place: Place, field: str) -> str | int | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, str | int)):
        raise place.error(field, f"found {shown(value)}", "a text or a whole number")
    return value


def _finecops_kind(sort: str) -> Kind:
    if "att" in sort:
        return Kind.ATTRIBUTE
    return Kind.RELATION if "rel" in sort else Kind.OBJECT
