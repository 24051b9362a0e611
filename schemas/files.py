"""Folders on any file system, with files that are written whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

import pyarrow.fs as pafs


@cache
def _filesystem(url: str) -> tuple[pafs.FileSystem, str]:
    """The file system of a folder and the folder's path in it; connected once per process."""
    if "://" in url:
        filesystem, root = pafs.FileSystem.from_uri(url)
        return filesystem, root
    return pafs.LocalFileSystem(), url


@dataclass(frozen=True, slots=True)
class FileFacts:
    """A file as the listing of a folder shows it."""

    name: str
    """Its path in the folder."""
    size: int
    """Bytes."""
    changed: int
    """When it was written, in nanoseconds; 0 where the store does not say."""


@dataclass(frozen=True)
class Folder:
    """A folder at a local path or a URL (`s3://`, `gs://`), held as text so that it can be sent."""

    url: str
    """Local path or URL, without a trailing slash."""

    @classmethod
    def at(cls, url: str) -> Folder:
        """The folder at a path or URL; local paths are made absolute."""
        url = url.removeprefix("file://")
        return cls(url.rstrip("/") if "://" in url else str(Path(url).resolve()))

    @property
    def local(self) -> bool:
        """Whether the folder is on a mounted file system."""
        return "://" not in self.url

    def _resolve(self, name: str) -> tuple[pafs.FileSystem, str]:
        filesystem, root = _filesystem(self.url)
        return filesystem, f"{root}/{name}" if name else root

    def join(self, name: str) -> str:
        """Path or URL of a file in the folder, for people and for other libraries."""
        return f"{self.url}/{name}"

    def exists(self, name: str) -> bool:
        """Whether a file or folder of that name exists."""
        filesystem, path = self._resolve(name)
        return bool(filesystem.get_file_info(path).type != pafs.FileType.NotFound)

    def names(self, sub: str = "") -> list[str]:
        """Sorted names of the files in the folder (or its sub-folder); [] if it does not exist."""
        filesystem, path = self._resolve(sub)
        selector = pafs.FileSelector(path, allow_not_found=True)
        infos = filesystem.get_file_info(selector)
        return sorted(info.base_name for info in infos if info.type == pafs.FileType.File)

    def below(self, sub: str) -> list[FileFacts]:
        """Every file below a sub-folder, by name; [] if it does not exist."""
        filesystem, root = self._resolve("")
        selector = pafs.FileSelector(f"{root}/{sub}", allow_not_found=True, recursive=True)
        found = [
            FileFacts(info.path.removeprefix(f"{root}/"), info.size, info.mtime_ns or 0)
            for info in filesystem.get_file_info(selector)
            if info.type == pafs.FileType.File
        ]
        return sorted(found, key=lambda file: file.name)

    def read(self, name: str) -> bytes:
        """Content of a file; FileNotFoundError if it does not exist."""
        filesystem, path = self._resolve(name)
        with filesystem.open_input_stream(path, compression=None) as stream:
            return bytes(stream.read())

    def open(self, name: str) -> Any:
        """A file open for random reads (a pyarrow `NativeFile`)."""
        filesystem, path = self._resolve(name)
        return filesystem.open_input_file(path)

    def open_for_writing(self, name: str) -> Any:
        """A stream to a new file (a pyarrow `NativeFile`); not atomic, rename it when whole."""
        filesystem, path = self._resolve(name)
        if self.local:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        return filesystem.open_output_stream(path, compression=None)

    def write(self, name: str, data: bytes, *, durable: bool = True) -> None:
        """Write a file so that a reader sees the old content or the new, never a part of it.

        On a mounted file system: a temporary file beside it, fsync, rename. On an object store: one
        upload, visible once complete. Without `durable` there is no fsync: the file survives a
        crash of the process, but perhaps not of the machine.
        """
        if not self.local:
            filesystem, path = self._resolve(name)
            with filesystem.open_output_stream(path, compression=None) as stream:
                stream.write(data)
            return
        with self.replacing(name, durable=durable) as temporary, temporary.open("wb") as stream:
            stream.write(data)

    @contextmanager
    def replacing(self, name: str, *, durable: bool = True) -> Iterator[Path]:
        """A temporary path on a mounted file system; the file, once the block ends without error.

        If the block raises, the temporary file is removed and the old file stays.
        """
        final = Path(self.url, name)
        final.parent.mkdir(parents=True, exist_ok=True)
        temporary = final.with_name(f".{final.name}.{uuid4().hex[:8]}.tmp")
        try:
            yield temporary
            if durable:
                with temporary.open("rb") as stream:
                    os.fsync(stream.fileno())
            temporary.rename(final)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        if not durable:
            return
        directory = os.open(final.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def write_json(self, name: str, value: object) -> None:
        """Write a value as readable JSON, atomically; ValueError for NaN and infinities."""
        try:
            text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
        except ValueError as error:
            raise ValueError(f"{self.join(name)} cannot be written as JSON: {error}") from None
        self.write(name, f"{text}\n".encode())

    def read_json(self, name: str) -> Any:
        """The value of a JSON file."""
        return json.loads(self.read(name))

    def move(self, name: str, new_name: str) -> None:
        """Rename a file (copy and delete on an object store)."""
        filesystem, path = self._resolve(name)
        filesystem.move(path, self._resolve(new_name)[1])

    def delete_folder(self, name: str) -> None:
        """Remove a sub-folder with its content; does nothing if it does not exist."""
        filesystem, path = self._resolve(name)
        if filesystem.get_file_info(path).type == pafs.FileType.Directory:
            filesystem.delete_dir(path)

    def delete(self, name: str) -> None:
        """Remove a file; does nothing if it does not exist."""
        filesystem, path = self._resolve(name)
        if filesystem.get_file_info(path).type == pafs.FileType.File:
            filesystem.delete_file(path)
