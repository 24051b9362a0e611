"""The files that lie where the user pointed. Knows paths and URLs, and no format."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from fsspec import AbstractFileSystem

from pipeline.sources.errors import SourceError
from stages.read.inputs import MissingExtraError, filesystem_of


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

    def open(self) -> BinaryIO:
        """The file open for binary reads."""
        filesystem, path = filesystem_of(self.url)
        return cast("BinaryIO", filesystem.open(path, "rb"))


@dataclass(frozen=True, slots=True)
class Found:
    """What the user named: one file, the files that match a pattern, or those below a folder."""

    url: str
    """What the user named, absolute."""
    folder: str
    """The folder that the names are relative to."""
    names: tuple[str, ...]
    """Sorted. Of a folder: all files that some format reads, and one of each other suffix."""
    is_folder: bool
    """Whether the user named a folder."""

    @property
    def is_file(self) -> bool:
        """Whether the user named this one file."""
        return self.names == (self.url.rpartition("/")[2],) and not self.is_folder

    def file(self, name: str) -> InputFile:
        """The file of this name, whether the user named it or it lies beside what they named."""
        url = f"{self.folder}/{name}"
        return InputFile(url, name, "" if url == self.url else name)

    def ending(self, suffix: str) -> list[str]:
        """The names with this suffix."""
        return [name for name in self.names if PurePosixPath(name).suffix == suffix]

    def only(self, suffix: str) -> InputFile | None:
        """The file that the user named, if it has this suffix; None for any other input."""
        return self.file(self.names[0]) if self.is_file and self.ending(suffix) else None

    def has(self, name: str) -> bool:
        """Whether the folder holds this file, even if the user named only another one."""
        if self.is_folder:
            return name in self.names
        filesystem, path = filesystem_of(f"{self.folder}/{name}")
        return bool(filesystem.exists(path))


def look(url: str, suffixes: Collection[str]) -> Found | None:
    """What lies at a path, URL or pattern; None if nothing does.

    `suffixes` are those whose names are kept: a folder often holds a million images besides.
    """
    url = url.rstrip("/") if "://" in url else str(Path(url).expanduser().absolute())
    filesystem, path = filesystem_of(url)
    if "*" in PurePosixPath(path).name:
        found = sorted(p for p in filesystem.glob(path) if filesystem.isfile(p))
        names = tuple(PurePosixPath(p).name for p in found)
        return Found(url, url.rpartition("/")[0], names, is_folder=False)
    if filesystem.isdir(path):
        return Found(url, url, _names_under(filesystem, path, suffixes), is_folder=True)
    return file_at(url) if filesystem.exists(path) else None


def file_at(url: str) -> Found:
    """A file as if the user had named it."""
    folder, _, name = url.rpartition("/")
    return Found(url, folder, (name,), is_folder=False)


def _names_under(
    filesystem: AbstractFileSystem, folder: str, suffixes: Collection[str]
) -> tuple[str, ...]:
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
            if suffix in suffixes:
                names.append(name)
            else:
                others.setdefault(suffix, name)
    return tuple(sorted([*names, *others.values()]))


def names_in(folder: str) -> frozenset[str]:
    """Names of the files in a folder; none where it does not exist."""
    filesystem, path = filesystem_of(folder)
    if not filesystem.isdir(path):
        return frozenset()
    return frozenset(str(name).rpartition("/")[2] for name in filesystem.ls(path, detail=False))


def first_folder(*folders: str) -> str:
    """The first of these that is a folder; the last one if none is."""
    for folder in folders[:-1]:
        filesystem, path = filesystem_of(folder)
        if filesystem.isdir(path):
            return folder
    return folders[-1]


@contextmanager
def one_line(url: str) -> Iterator[None]:
    """Turn a wrong path, a missing package or a missing permission into one line that names it."""
    try:
        yield
    except SourceError:
        raise
    except MissingExtraError as error:
        raise SourceError(f"{url}: {error}") from error
    except (OSError, ValueError) as error:
        problem = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise SourceError(f"{url}: cannot be read: {problem}") from error
