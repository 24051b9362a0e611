"""What an input format says of itself. One class a file of this folder; nothing else lists them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, ClassVar, NamedTuple

from pipeline.sources.columns import FIELDS, Mapped, Preset
from pipeline.sources.errors import Place
from pipeline.sources.files import Found, InputFile

_CHUNK_BYTES = 2**20


class PlacedRow(NamedTuple):
    """A row as the input has it, and where it is."""

    place: Place
    cells: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Input:
    """The files of an input and their common format."""

    url: str
    """What the user named, absolute; or what the format takes it for: the file in a folder."""
    format: Format
    """Their format."""
    files: tuple[InputFile, ...]
    """At least one, in the order in which they are read."""


class Format(ABC):
    """A published layout of files: how it is recognised, and how it becomes rows.

    A new format is one concrete class in a file of this folder. Its cells are plain values; that
    texts, boxes, masks and paths are sound is checked later, for all formats alike (`rows.py`).
    """

    name: ClassVar[str]
    """In messages and fingerprints, and as `--columns preset=NAME`."""
    known_by: ClassVar[str]
    """The files by which a person knows it: "captions_*.json"."""
    suffixes: ClassVar[tuple[str, ...]]
    """Suffixes of the files that it reads."""
    columns: ClassVar[tuple[str, ...]]
    """The columns of its rows. One named as a field of a seed fills that field."""
    defaults: ClassVar[Mapping[str, str]] = {}
    """Field -> text where the row has none."""

    @abstractmethod
    def find(self, found: Found) -> Input | None:
        """The files to read; None if what was found is something else."""

    @abstractmethod
    def rows(self, source: Input, mapped: Mapped) -> Iterator[PlacedRow]:
        """The rows in input order; `SourceError` with file, row and field at the first wrong one.

        Cells that fill no field of `mapped` may be left out.
        """

    def columns_of(self, source: Input) -> Sequence[str]:
        """The columns of this input, those of nested objects with dots."""
        return self.columns

    def image_root(self, source: Input, file: str) -> str:
        """Folder of the relative image paths that `file` (a URL) names: its own, if not said."""
        return file.rpartition("/")[0]

    def fingerprint(self, file: InputFile) -> bytes:
        """16 bytes that change with the content of the file: all of it counts, if not said."""
        part = blake2b(digest_size=16)
        with file.open() as stream:
            while chunk := stream.read(_CHUNK_BYTES):
                part.update(chunk)
        return part.digest()

    @property
    def preset(self) -> Preset | None:
        """Its own mapping of columns to fields."""
        columns = {column: (column,) for column in self.columns if column in FIELDS}
        return Preset(self.name, (self.name,), (), columns, self.defaults)


class Table(Format):
    """Rows under whatever column names: an entry of `presets.yaml` maps them.

    An input that another format recognises is not read as a table.
    """

    columns: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def columns_of(self, source: Input) -> Sequence[str]:
        """The columns of this input, those of nested objects with dots."""

    @property
    def preset(self) -> None:
        """None: a table says nothing about the meaning of its columns."""
        return
