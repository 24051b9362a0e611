"""An input opened with its column mapping: rows as `SeedRef`s, and a fingerprint."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path

from pipeline.sources.columns import Mapped
from pipeline.sources.errors import SourceError
from pipeline.sources.files import one_line
from pipeline.sources.find import find_input
from pipeline.sources.formats import Input
from pipeline.sources.presets import map_columns, preset_named
from pipeline.sources.rows import seed_of_row
from schemas.ids import content_id
from schemas.records import SeedRef


@dataclass(frozen=True, slots=True)
class Source:
    """An input and how its columns fill the fields of a seed."""

    input: Input
    """The files."""
    mapped: Mapped
    """The columns."""
    image_root: str | None
    """Folder of relative image paths, as the user said; None for where the format has them."""

    def rows(self, run_seed: int = 0) -> Iterator[SeedRef]:
        """The rows in input order, duplicates included; `SourceError` at the first wrong one."""
        root_of = lru_cache(maxsize=1)(self._root)  # rows come file by file
        for row in self.input.format.rows(self.input, self.mapped):
            yield seed_of_row(row, self.mapped, root_of(row.place.file), run_seed)

    def digest(self) -> str:
        """Fingerprint of the input's content and the columns read; moving it changes nothing."""
        total = blake2b(digest_size=16)
        for file in self.input.files:
            with one_line(file.url):
                total.update(self.input.format.fingerprint(file))
        columns = json.dumps([self.mapped.preset, dict(self.mapped.columns)], sort_keys=True)
        return content_id("source", self.input.format.name, columns, total.hexdigest())

    def _root(self, file: str) -> str:
        if self.image_root is not None:
            return self.image_root
        return self.input.format.image_root(self.input, file)


def open_source(
    url: str, columns: Mapping[str, str] | None = None, image_root: str | None = None
) -> Source:
    """Open an input: a file, a folder, a pattern, or a URL of one.

    `columns` is field -> column, and `preset` -> name; see `presets.yaml`. `SourceError` if there
    is nothing to read, or if its columns do not fit.
    """
    asked = columns or {}
    wanted = preset_named(asked["preset"]).formats if "preset" in asked else ()
    source = find_input(url, wanted)
    mapped = map_columns(source, source.format.columns_of(source), asked)
    return Source(source, mapped, None if image_root is None else _absolute(image_root))


def _absolute(folder: str) -> str:
    if "://" in folder:
        return folder.rstrip("/")
    path = Path(folder).expanduser().absolute()
    if not path.is_dir():
        raise SourceError(f"--image-root {folder}: no such folder")
    return str(path)
