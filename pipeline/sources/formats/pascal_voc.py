"""Pascal VOC: one XML file of objects an image, and lists of images as splits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import PurePosixPath
from typing import Any, ClassVar, NoReturn
from xml.etree.ElementTree import Element, TreeBuilder  # trees alone; expat parses below
from xml.parsers import expat

from pipeline.sources.columns import Mapped
from pipeline.sources.errors import Place, SourceError, shown
from pipeline.sources.files import Found, InputFile, names_in, one_line
from pipeline.sources.formats.base import Format, Input, PlacedRow
from stages.wording import plural_of

_CORNERS = ("xmin", "ymin", "xmax", "ymax")
_FIRST_PIXEL = 1
"""Of a row or column: the development kit counts from 1, and the last pixel is inside the box."""
_WORDS = {
    "diningtable": "dining table",
    "pottedplant": "potted plant",
    "tvmonitor": "tv monitor",
}
"""Its class names that are not written as English writes them."""


class PascalVoc(Format):
    """`Annotations/*.xml` beside `JPEGImages/`, of one year or of several below a VOCdevkit.

    A list of `ImageSets/` as the input chooses its images; in the lists of one class those marked
    -1 are left out. Objects marked difficult are left out, as crowds of COCO are; so are the parts
    of people (head, hand, foot), which are not things of their own. There are no captions: rows
    have no answer, unless `--columns chosen=labels` takes the sentence that names the objects.
    """

    name = "pascal_voc"
    known_by = "Annotations/*.xml or ImageSets/*/*.txt"
    suffixes = (".xml",)
    columns = ("id", "image", "prompt", "chosen", "objects", "source", "license", "labels")
    defaults: ClassVar[Mapping[str, str]] = {"prompt": "Describe the image."}

    def find(self, found: Found) -> Input | None:
        """The annotations below a folder, of a pattern, of a list, or the one that was named."""
        chosen = found.only(".txt")
        if chosen is not None and "/ImageSets/" in chosen.url:
            return Input(found.url, self, _of_list(chosen))
        files = tuple(found.file(name) for name in found.ending(".xml"))
        files = tuple(file for file in files if file.folder.endswith("/Annotations"))
        return Input(found.url, self, files) if files else None

    def rows(self, source: Input, mapped: Mapped) -> Iterator[PlacedRow]:
        """One row an annotation file."""
        images_in = cache(names_in)
        for file in source.files:
            annotation = _parsed(file)
            place = Place(file.url, file.name)
            items = [
                (f"object {number}", item)
                for number, item in enumerate(annotation.iterfind("object"))
                if _text(item, "difficult") != "1"
            ]
            objects = [_object(place, field, item) for field, item in items]
            stem = PurePosixPath(file.url).stem
            cells = {
                "id": stem,
                "image": _image_name(
                    annotation, stem, images_in(self.image_root(source, file.url))
                ),
                "objects": objects,
                "source": _text(annotation, "source/database") or None,
                "labels": sentence([str(one["label"]) for one in objects]),
            }
            yield PlacedRow(place, cells)

    def image_root(self, source: Input, file: str) -> str:
        """`JPEGImages` beside the `Annotations` that hold the file."""
        return f"{file.rpartition('/Annotations/')[0]}/JPEGImages"


def sentence(labels: Sequence[str]) -> str | None:
    """What the image holds: "A dog and people." None where nothing is annotated.

    Several of a kind are not counted: small and hidden objects are not annotated.
    """
    nouns = [
        plural_of(label) if number > 1 else f"{'an' if label[:1] in 'aeiou' else 'a'} {label}"
        for label, number in Counter(label for label in labels if label).items()
    ]
    *most, last = nouns or [""]
    text = f"{', '.join(most)} and {last}" if most else last
    return f"{text[0].upper()}{text[1:]}." if text else None


def _of_list(file: InputFile) -> tuple[InputFile, ...]:
    """The annotations of the images in a list of `ImageSets`: an id a line, maybe with labels."""
    root = file.url.partition("/ImageSets/")[0]
    with file.open() as stream:
        lines = [line.split() for line in stream.read().decode("utf-8-sig").splitlines()]
    ids = dict.fromkeys(words[0] for words in lines if words and words[1:][-1:] != ["-1"])
    if not ids:
        raise SourceError(f"{file.url}: names no image; allowed: at least one id")
    names = [f"Annotations/{one}.xml" for one in ids]
    return tuple(InputFile(f"{root}/{name}", name, name) for name in names)


def _parsed(file: InputFile) -> Element:
    """The annotation; `SourceError` if it is not one, or brings entities of its own to expand."""
    with one_line(file.url), file.open() as stream:
        data = stream.read()

    def refuse(*_: object) -> NoReturn:
        raise SourceError(f"{file.url}: declares a document type; allowed: plain <annotation>")

    builder = TreeBuilder()
    parser = expat.ParserCreate()
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = builder.start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(data, True)  # noqa: FBT003  # takes no keyword
        root = builder.close()
    except (expat.ExpatError, LookupError, ValueError) as error:
        raise SourceError(f"{file.url}: not valid XML: {error}") from error
    if root.tag != "annotation":
        raise SourceError(f"{file.url}: found <{root.tag}>; allowed: <annotation>")
    return root


def _object(place: Place, field: str, item: Element) -> Mapping[str, Any]:
    # A direct child: parts have boxes, too.
    corners = [_text(item, f"bndbox/{corner}") for corner in _CORNERS]
    try:
        x0, y0, x1, y1 = map(float, corners)
    except ValueError as error:
        allowed = f"{', '.join(_CORNERS)} in pixels counted from {_FIRST_PIXEL}"
        raise place.error(f"{field} bndbox", f"found {shown(corners)}", allowed) from error
    name = _text(item, "name")
    box = [x0 - _FIRST_PIXEL, y0 - _FIRST_PIXEL, x1, y1]
    return {"label": _WORDS.get(name, name), "box": box}


def _image_name(annotation: Element, stem: str, present: frozenset[str]) -> str:
    """The file name it gives; if there is no such file, that of the annotation with any suffix."""
    name = _text(annotation, "filename")
    if name in present:
        return name
    others = (f"{stem}{suffix}" for suffix in (".jpg", ".jpeg", ".png", ".JPG", ".JPEG", ".PNG"))
    return next((other for other in others if other in present), name or f"{stem}.jpg")


def _text(item: Element, path: str) -> str:
    return (item.findtext(path) or "").strip()
