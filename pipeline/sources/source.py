"""An input opened with its column mapping: rows as `SeedRef`s, and a fingerprint."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.sources.files import PAIR_FOLDERS, Format, Input, digest, find_input
from pipeline.sources.formats.coco import COCO_COLUMNS, coco_image_root, coco_rows
from pipeline.sources.formats.errors import SourceError
from pipeline.sources.formats.pair_folders import (
    RELEASED_PAIR_COLUMNS,
    countercurate_rows,
    finecops_rows,
)
from pipeline.sources.formats.parquet import parquet_columns, parquet_rows
from pipeline.sources.formats.text import PlacedRow, json_rows, jsonl_rows, sampled_columns
from pipeline.sources.formats.visual_genome import (
    VISUAL_GENOME_COLUMNS,
    visual_genome_image_root,
    visual_genome_rows,
)
from pipeline.sources.presets import Mapped, map_columns
from pipeline.sources.rows import seed_of_row
from schemas.ids import content_id
from schemas.records import SeedRef


@dataclass(frozen=True, slots=True)
class Source:
    """An input and how its columns feed the fields of a seed."""

    input: Input
    """The files."""
    mapped: Mapped
    """The columns."""
    image_root: str | None
    """Folder of relative image paths; None for the folder of the file that names them."""

    def rows(self, run_seed: int = 0) -> Iterator[SeedRef]:
        """The rows in input order, duplicates included; `SourceError` at the first wrong one."""
        root = self.image_root
        for row in self._placed_rows():
            folder = row.place.file.rpartition("/")[0] if root is None else root
            yield seed_of_row(row, self.mapped, folder, run_seed)

    def digest(self) -> str:
        """Fingerprint of the input's content and the columns read; moving it changes nothing."""
        columns = json.dumps([self.mapped.preset, dict(self.mapped.columns)], sort_keys=True)
        return content_id("source", self.input.format, columns, digest(self.input))

    def _placed_rows(self) -> Iterator[PlacedRow]:
        match self.input.format:
            case Format.JSONL:
                return jsonl_rows(self.input)
            case Format.JSON:
                return json_rows(self.input)
            case Format.COCO:
                return coco_rows(self.input)
            case Format.VISUAL_GENOME:
                return visual_genome_rows(self.input)
            case Format.COUNTERCURATE:
                return countercurate_rows(self.input)
            case Format.FINECOPS_REF:
                return finecops_rows(self.input)
            case Format.PARQUET:
                return parquet_rows(self.input, self.mapped)


def open_source(
    url: str, columns: Mapping[str, str] | None = None, image_root: str | None = None
) -> Source:
    """Open an input: a file, a folder, a pattern, or a URL of one.

    `columns` is field -> column, and `preset` -> name; see `presets.yaml`. `SourceError` if there
    is nothing to read, or if its columns do not fit.
    """
    source = find_input(url)
    mapped = map_columns(source.url, source.format, _columns(source), columns or {})
    if image_root is not None:
        root: str | None = image_root.rstrip("/") if "://" in image_root else _absolute(image_root)
    elif source.format is Format.COCO:
        root = coco_image_root(source)
    elif source.format is Format.VISUAL_GENOME:
        root = visual_genome_image_root(source)
    elif source.format in PAIR_FOLDERS:
        root = source.url
    else:
        root = None
    return Source(source, mapped, root)


def _absolute(folder: str) -> str:
    path = Path(folder).expanduser().absolute()
    if not path.is_dir():
        raise SourceError(f"--image-root {folder}: no such folder")
    return str(path)


def _columns(source: Input) -> list[str]:
    """The columns that the input has."""
    match source.format:
        case Format.COCO:
            return COCO_COLUMNS
        case Format.VISUAL_GENOME:
            return VISUAL_GENOME_COLUMNS
        case Format.COUNTERCURATE | Format.FINECOPS_REF:
            return RELEASED_PAIR_COLUMNS
        case Format.PARQUET:
            return parquet_columns(source)
    rows = jsonl_rows(source) if source.format is Format.JSONL else json_rows(source)
    names = sampled_columns(rows)
    if not names:
        raise SourceError(f"{source.url}: empty; allowed: at least one row")
    return names
