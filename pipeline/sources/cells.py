"""From the cell of one column to the value of one field. Knows rows, not files or formats."""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any
from urllib.parse import unquote_to_bytes

from pipeline.sources.errors import Place, SourceError, shown
from pipeline.sources.rle import unpacked
from schemas.geometry import Box, Mask
from schemas.records import Drop, ImageRef, Reason, Region
from stages.read.inputs import MissingExtraError, filesystem_of

_USER = {"user", "human"}
_ASSISTANT = {"assistant", "gpt"}
_PLACEHOLDER = re.compile(r"\s*<image>\s*")
UNSTORABLE = re.compile("[\x00\ud800-\udfff]")
"""NUL, which ends a text for C libraries, and lone surrogates, which UTF-8 cannot encode."""


@dataclass(frozen=True, slots=True)
class EmbeddedImage:
    """An image cell of a Parquet file whose bytes were not read."""

    url: str
    """The Parquet file."""
    key: str
    """The file's name for ids, as in `InputFile`."""
    column: str
    """Column name; dots descend into structs."""
    row: int
    """Row, counted from 0 over the file."""


@dataclass(frozen=True, slots=True)
class ImageCell:
    """What an image cell says."""

    ref: ImageRef
    """Where the image is."""
    identity: str | bytes
    """The same on every machine: what the cell says, before any folder is joined to it."""
    defect: Drop | None = None
    """Why there is no image."""


def cell_of(cells: Mapping[str, Any], column: str | None) -> Any:
    """The cell of a column, descending into structs at dots; None where there is none."""
    if column is None:
        return None
    if column in cells:
        return cells[column]
    value: Any = cells
    for part in column.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def turn(place: Place, field: str, cell: Any, *, first: bool) -> str | None:
    """The text of a text cell: of `prompt` the user's turn, of other fields the assistant's.

    Plain text is taken as it is. Of chat messages it is the last turn of that role, or, where
    `first` is set, that of the first user turn which the assistant answers.
    """
    if cell is None or isinstance(cell, str):
        return cell
    messages = _messages(cell)
    if messages is None:
        raise place.error(
            field,
            f"found {shown(cell)}",
            "text, or chat messages with role and content (or from and value)",
        )
    wanted = _USER if field == "prompt" else _ASSISTANT
    if first:
        for (role, text), (next_role, answer) in pairwise(messages):
            if role in _USER and next_role in _ASSISTANT:
                return text if field == "prompt" else answer
        return None
    return next((text for role, text in reversed(messages) if role in wanted), None)


def without_placeholders(prompt: str) -> str:
    """A prompt without `<image>`: trainers put their own placeholder where the image goes."""
    return _PLACEHOLDER.sub(" ", prompt).strip() if "<image>" in prompt else prompt


def _messages(cell: Any) -> list[tuple[str, str]] | None:
    """Chat messages as (role, text); None if the cell is something else."""
    items = _records(cell)
    if items is None:
        return None
    messages = []
    for item in items:
        role = item.get("role", item.get("from"))
        content = item.get("content", item.get("value"))
        if isinstance(content, Sequence) and not isinstance(content, str):
            texts = [block.get("text") for block in content if isinstance(block, Mapping)]
            content = "\n".join(text for text in texts if isinstance(text, str))
        if not isinstance(role, str) or not isinstance(content, str):
            return None
        messages.append((role.lower(), content))
    return messages


def _records(cell: Any) -> list[Mapping[str, Any]] | None:
    """A list of structs, a single struct, or (as `datasets` used to store it) a struct of lists."""
    if isinstance(cell, Mapping):
        columns = list(cell.values())
        if (
            columns
            and all(isinstance(c, list) for c in columns)
            and len(set(map(len, columns))) == 1
        ):
            return [dict(zip(cell, row, strict=True)) for row in zip(*columns, strict=True)]
        return [cell]
    if isinstance(cell, list) and all(isinstance(item, Mapping) for item in cell):
        return cell
    return None


def label_text(place: Place, field: str, cell: Any) -> str | None:
    """A short text such as a licence; numbers are taken as their digits."""
    if cell is None or isinstance(cell, str):
        return cell
    if isinstance(cell, int | float) and not isinstance(cell, bool):
        return str(cell)
    raise place.error(field, f"found {shown(cell)}", "text")


def image_cell(place: Place, cell: Any, root: str) -> ImageCell:
    """Where the image of a row is; relative paths are joined to `root`."""
    if isinstance(cell, list):
        if len(cell) > 1:
            detail = f"{len(cell)} images in the row; exactly one is allowed"
            return ImageCell(ImageRef(None), "", Drop(Reason.BAD_IMAGE, detail))
        cell = cell[0] if cell else None
    if isinstance(cell, EmbeddedImage):
        ref = ImageRef(cell.url, cell.row, cell.column)
        return ImageCell(ref, f"{cell.key}#{cell.column}#{cell.row}")
    if isinstance(cell, Mapping) and ("bytes" in cell or "path" in cell):
        cell = cell.get("bytes") or cell.get("path")
    if cell is None or cell in ("", b""):
        detail = "the row names no image"
        return ImageCell(ImageRef(None), "", Drop(Reason.IMAGE_NOT_FOUND, detail))
    if isinstance(cell, bytes):
        return ImageCell(ImageRef(None, bytes=cell), cell)
    if not isinstance(cell, str):
        raise place.error(
            "image",
            f"found {shown(cell)}",
            "a path, a URL, a data URL, a {bytes, path} struct, or a list of one of these",
        )
    if cell.startswith("data:"):
        return _data_url(cell)
    if UNSTORABLE.search(cell):
        detail = f"image path {shown(cell)} holds NUL or a lone surrogate"
        return ImageCell(ImageRef(None), cell, Drop(Reason.BAD_TEXT, detail))
    url = cell if "://" in cell or cell.startswith("/") else f"{root}/{cell}"
    defect = _unopenable(place, url) if "://" in url else None
    return ImageCell(ImageRef(url), cell, defect)


def _unopenable(place: Place, url: str) -> Drop | None:
    try:
        _check_scheme(url.split("://", 1)[0])
    except MissingExtraError as error:
        raise SourceError(f"{place.where}: {error}") from error
    except ValueError:
        return Drop(Reason.IMAGE_NOT_FOUND, f"image path {shown(url)}: unknown scheme")
    return None


@cache
def _check_scheme(scheme: str) -> None:
    filesystem_of(f"{scheme}://x/x")


def _data_url(url: str) -> ImageCell:
    """A data URL (RFC 2397) as inline bytes."""
    head, _, data = url.partition(",")
    raw = unquote_to_bytes(data)
    problem = "no data"
    if head.endswith(";base64"):
        try:
            raw = base64.b64decode(re.sub(rb"\s+", b"", raw), validate=True)
        except binascii.Error as error:
            raw, problem = b"", str(error)
    if not raw:
        detail = f"invalid data URL {shown(url, 40)}: {problem}"
        return ImageCell(ImageRef(None), url, Drop(Reason.BAD_IMAGE, detail))
    return ImageCell(ImageRef(None, bytes=raw), raw)


def regions(place: Place, cell: Any) -> tuple[Region, ...]:
    """The annotated regions of a row: objects with label, box (xyxy) and maybe mask, attributes."""
    if cell is None:
        return ()
    items = _records(cell)
    if items is None:
        raise place.error("objects", f"found {shown(cell)}", "a list of {label, box}")
    return tuple(_region(place, f"objects[{i}]", item) for i, item in enumerate(items))


def _region(place: Place, field: str, item: Mapping[str, Any]) -> Region:
    if "label" not in item or "box" not in item:
        problem = f"found keys {', '.join(map(str, item)) or 'none'}"
        raise place.error(field, problem, "label and box, and optionally mask and attributes")
    label, attributes = item["label"], item.get("attributes") or ()
    if not isinstance(label, str) or not label.strip():
        raise place.error(f"{field}.label", f"found {shown(label)}", "a name")
    if isinstance(attributes, str) or not all(isinstance(a, str) for a in attributes):
        raise place.error(f"{field}.attributes", f"found {shown(attributes)}", "a list of words")
    return Region(
        label,
        _box(place, f"{field}.box", item["box"]),
        _mask(place, f"{field}.mask", item.get("mask")),
        tuple(attributes),
    )


def _box(place: Place, field: str, cell: Any) -> Box:
    allowed = "[x0, y0, x1, y1] in pixels with x0 <= x1 and y0 <= y1"
    numbers = cell if isinstance(cell, Sequence) and not isinstance(cell, str) else []
    plain = [v for v in numbers if isinstance(v, int | float) and not isinstance(v, bool)]
    try:
        values = [float(v) for v in plain]
    except OverflowError:  # an int beyond the range of floats
        values = []
    if len(numbers) != 4 or len(values) != 4 or not all(map(math.isfinite, values)):
        raise place.error(field, f"{shown(cell)} is not four finite numbers", allowed)
    box = Box(*values)
    if box.x1 < box.x0 or box.y1 < box.y0:
        raise place.error(field, f"{shown(cell)} has its corners in the wrong order", allowed)
    return box


def xyxy(place: Place, field: str, bbox: Any) -> list[float]:
    """A box given as [x, y, width, height]."""
    numbers = isinstance(bbox, list) and all(
        isinstance(v, int | float) and not isinstance(v, bool) for v in bbox
    )
    if not numbers or len(bbox) != 4 or not bbox[2] >= 0 or not bbox[3] >= 0:
        raise place.error(field, f"found {shown(bbox)}", "[x, y, width, height] in pixels")
    x, y, width, height = bbox
    return [x, y, x + width, y + height]


def _mask(place: Place, field: str, cell: Any) -> Mask | None:
    """A mask as COCO run lengths, packed or not; whether it fits its image is seen later."""
    if cell is None or isinstance(cell, Mask):
        return cell
    allowed = "COCO run lengths {size: [height, width], counts}"
    if not isinstance(cell, Mapping):
        raise place.error(field, f"found {shown(cell)}", allowed)
    size: Any = cell.get("size") or [cell.get("height"), cell.get("width")]
    counts: Any = cell.get("counts")
    if isinstance(counts, str | bytes):
        try:
            counts = unpacked(counts)
        except ValueError as error:
            raise place.error(field, str(error), allowed) from error
    whole = isinstance(counts, Sequence) and isinstance(size, Sequence) and len(size) == 2
    if not whole or not all(isinstance(v, int) and 0 <= v < 2**31 for v in [*size, *counts]):
        raise place.error(field, f"found {shown(cell)}", allowed)
    return Mask(size[0], size[1], tuple(counts))
