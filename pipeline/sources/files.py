"""The files of an input: which they are, what format they are in, and their fingerprint."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from hashlib import blake2b
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline.sources.formats.errors import SourceError
from stages.read.inputs import MissingExtraError, filesystem_of


class Format(StrEnum):
    """What kind of files an input is made of; the names of `presets.yaml`."""

    JSONL = "jsonl"
    PARQUET = "parquet"
    JSON = "json"
    COCO = "coco"
    VISUAL_GENOME = "visual_genome"
    COUNTERCURATE = "countercurate"
    FINECOPS_REF = "finecops_ref"


_READABLE = (
    "a .jsonl, .json or .parquet file, a folder or a pattern (*.parquet) of them, a COCO "
    "captions_*.json, or a folder of Visual Genome (image_data.json), CounterCurate "
    "(counting.json, ...) or FineCops-Ref (positive.json and negative.json)"
)
PAIR_FOLDERS = {
    Format.COUNTERCURATE: (
        "counting.json",
        "left_right.json",
        "up_down.json",
        "dalle_gen_counterfactuals.json",
        "flickr30k_image_captions.json",
    ),
    Format.FINECOPS_REF: ("positive.json", "negative.json"),
}
"""Folders of released pairs, by the files that they are known by: any one, or all of them."""
_SUFFIXES = {".jsonl", ".json", ".parquet"}
_CHUNK_BYTES = 2**20
_PARQUET_TAIL_BYTES = 8
"""Length of the footer (4 bytes, little-endian) and the magic "PAR1"."""
_NUM_PEEKED_BYTES = 2**16


@dataclass(frozen=True, slots=True)
class InputFile:
    """A file of the input."""

    url: str
    """Absolute local path, or URL."""
    name: str
    """Name relative to the input, for people."""
    key: str
    """Name relative to the input, for ids: "" where the input is this one file."""

    @property
    def folder(self) -> str:
        """The folder that holds the file."""
        return self.url.rpartition("/")[0]

    def open(self) -> Any:
        """The file open for binary reads."""
        filesystem, path = filesystem_of(self.url)
        return filesystem.open(path, "rb")


@dataclass(frozen=True, slots=True)
class Input:
    """The files of an input and their common format."""

    url: str
    """What the user named, absolute."""
    format: Format
    """Their format."""
    files: tuple[InputFile, ...]
    """At least one, sorted by name. For COCO the captions come first, then the instances."""


def find_input(url: str) -> Input:
    """The files behind what the user named; `SourceError` if there are none to be read."""
    if not url:
        raise SourceError(f"no input named; allowed: {_READABLE}")
    with _one_line(url):
        url = url.rstrip("/") if "://" in url else str(Path(url).expanduser().absolute())
        filesystem, path = filesystem_of(url)
        if "*" in PurePosixPath(path).name:
            folder = url.rpartition("/")[0]
            found = sorted(p for p in filesystem.glob(path) if filesystem.isfile(p))
            return _of_files(url, folder, [PurePosixPath(p).name for p in found])
        if filesystem.isdir(path):
            return _of_folder(url, _names_under(filesystem, path))
        if not filesystem.exists(path):
            raise SourceError(f"{url}: no such file or folder; allowed: {_READABLE}")
        return _of_file(url)


def digest(source: Input) -> str:
    """Fingerprint of the input's content, wherever it lies and whatever it is called.

    Text files count whole. Of a Parquet file its size and footer count (schema, statistics, and the
    place and length of every column chunk), not the images: they may be terabytes.
    """
    total = blake2b(digest_size=16)
    for file in source.files:
        with _one_line(file.url):
            part = (
                _footer_digest(file) if source.format is Format.PARQUET else _content_digest(file)
            )
        total.update(part)
    return total.hexdigest()


@contextmanager
def _one_line(url: str) -> Iterator[None]:
    """What a wrong path, a missing package or a missing permission looks like to the user."""
    try:
        yield
    except SourceError:
        raise
    except MissingExtraError as error:
        raise SourceError(f"{url}: {error}") from error
    except (OSError, ValueError) as error:
        raise SourceError(f"{url}: cannot be read: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _names_under(filesystem: Any, folder: str) -> list[str]:
    """Relative names of the files with rows, sorted, and one name of every other kind.

    The images often lie in the same folder, a million of them: their names are not kept.
    """
    root = folder.rstrip("/") + "/"
    names: list[str] = []
    others: dict[str, str] = {}
    for parent, _, files in filesystem.walk(folder):
        inside = str(parent).rstrip("/") + "/"
        for file in files:
            name = f"{inside.removeprefix(root)}{file}"
            suffix = PurePosixPath(name).suffix
            if any(part.startswith((".", "_")) for part in PurePosixPath(name).parts):
                continue
            if suffix in _SUFFIXES:
                names.append(name)
            else:
                others.setdefault(suffix, name)
    return sorted([*names, *others.values()])


def _of_folder(url: str, names: Sequence[str]) -> Input:
    """A folder: of annotations where it holds some, else of files with rows."""
    if "image_data.json" in names:
        wanted = ("image_data", "objects", "attributes", "region_descriptions")
        present = [f"{name}.json" for name in wanted if f"{name}.json" in names]
        files = tuple(InputFile(f"{url}/{name}", name, name) for name in present)
        return Input(url, Format.VISUAL_GENOME, files)
    for kind, marks in PAIR_FOLDERS.items():
        present = [name for name in marks if name in names]
        if present and (kind is Format.COUNTERCURATE or len(present) == len(marks)):
            files = tuple(InputFile(f"{url}/{name}", name, name) for name in present)
            return Input(url, kind, files)
    captions = [n for n in names if _is_captions(n)]
    if len(captions) > 1:
        raise SourceError(
            f"{url}: holds several caption files ({', '.join(captions)}); name one of them"
        )
    if captions:
        return _coco(f"{url}/{captions[0]}")
    return _of_files(url, url, names)


def _of_files(url: str, folder: str, names: Sequence[str]) -> Input:
    by_suffix: dict[str, list[str]] = {}
    for name in names:
        by_suffix.setdefault(PurePosixPath(name).suffix, []).append(name)
    kinds = ((".parquet", Format.PARQUET), (".jsonl", Format.JSONL))
    readable = [(suffix, kind) for suffix, kind in kinds if suffix in by_suffix]
    if len(readable) > 1:
        raise SourceError(
            f"{url}: holds both .parquet and .jsonl files; name one kind, as in '{url}/*.parquet'"
        )
    if readable:
        suffix, kind = readable[0]
        chosen = by_suffix[suffix]
        return Input(url, kind, tuple(InputFile(f"{folder}/{n}", n, n) for n in chosen))
    if len(by_suffix.get(".json", [])) == 1:
        return _of_file(f"{folder}/{by_suffix['.json'][0]}")
    seen = ", ".join(n[0] for _, n in sorted(by_suffix.items())[:5])
    raise SourceError(
        f"{url}: nothing to read (it holds: {seen or 'no file'}); allowed: {_READABLE}"
    )


def _of_file(url: str) -> Input:
    name = PurePosixPath(url).name
    file = InputFile(url, name, "")
    suffix = PurePosixPath(url).suffix
    if suffix == ".parquet":
        return Input(url, Format.PARQUET, (file,))
    if suffix == ".jsonl":
        return Input(url, Format.JSONL, (file,))
    if suffix != ".json":
        raise SourceError(f"{url}: unknown kind of file; allowed: {_READABLE}")
    if name == "image_data.json":
        folder = file.folder
        filesystem, path = filesystem_of(folder)
        inside = [PurePosixPath(str(p)).name for p in filesystem.ls(path, detail=False)]
        return _of_folder(folder, inside)
    if _is_captions(name):
        return _coco(url)
    return Input(url, _json_kind(file), (file,))


def _is_captions(name: str) -> bool:
    last = PurePosixPath(name).name
    return last.startswith("captions_") and last.endswith(".json")


def _coco(captions: str) -> Input:
    """A captions file, and the instances file of the same split where it lies beside it."""
    folder, _, name = captions.rpartition("/")
    partner = name.replace("captions_", "instances_", 1)
    names = [name]
    filesystem, path = filesystem_of(f"{folder}/{partner}")
    if filesystem.exists(path):
        names.append(partner)
    return Input(captions, Format.COCO, tuple(InputFile(f"{folder}/{n}", n, n) for n in names))


def _json_kind(file: InputFile) -> Format:
    """Of a .json file: one list, COCO captions under another name, or lines of objects."""
    with file.open() as stream:
        start = stream.read(_NUM_PEEKED_BYTES)
    first = start.removeprefix(b"\xef\xbb\xbf").lstrip().split(b"\n", 1)[0]
    try:
        whole_line = isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        whole_line = False
    if first.startswith(b"{") and any(key in start for key in (b'"annotations"', b'"images": [{')):
        return Format.COCO
    return Format.JSONL if whole_line else Format.JSON


def _content_digest(file: InputFile) -> bytes:
    part = blake2b(digest_size=16)
    with file.open() as stream:
        read: Callable[[], bytes] = lambda: stream.read(_CHUNK_BYTES)  # noqa: E731
        for chunk in iter(read, b""):
            part.update(chunk)
    return part.digest()


def _footer_digest(file: InputFile) -> bytes:
    with file.open() as stream:
        size = stream.seek(0, 2)
        stream.seek(max(0, size - _PARQUET_TAIL_BYTES))
        tail = stream.read(_PARQUET_TAIL_BYTES)
        if len(tail) < _PARQUET_TAIL_BYTES or tail[4:] != b"PAR1":
            raise SourceError(f"{file.url}: not a Parquet file (no PAR1 at its end)")
        length = int.from_bytes(tail[:4], "little") + _PARQUET_TAIL_BYTES
        stream.seek(max(0, size - length))
        return blake2b(size.to_bytes(8, "little") + stream.read(length), digest_size=16).digest()
