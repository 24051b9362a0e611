"""Writes an export: reads the pairs of a finished run once, row group by row group."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipeline.errors import UsageError
from pipeline.export.formats import FORMATS, Format, Table
from pipeline.export.projections import Row, Unfit, Wanted
from schemas.files import Folder
from schemas.holdout import FOLD, TRAIN, VALIDATION, is_held_out, source_image
from schemas.ids import content_id
from schemas.names import unknown
from schemas.outcomes import pair_from_row
from schemas.records import Image, Pair
from schemas.shards import DataWriter, read_pairs, with_hf_metadata

_SUFFIXES = {b"\xff\xd8": ".jpg", b"\x89P": ".png", b"RI": ".webp"}
"""File suffix by the first two bytes of an image."""


@dataclass
class ExportFacts:
    """What an export wrote, and what it left out."""

    num_pairs: int = 0
    """Pairs of the run."""
    num_rows: Counter[str] = field(default_factory=Counter)
    """Rows by "table split"."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Pairs that made no row, by reason."""
    without_rows: list[str] = field(default_factory=list)
    """Requested splits without rows; they have no files."""

    def text(self, output: str) -> str:
        """As lines to print."""
        lines = [f"{output}: {self.num_pairs:,} pairs"]
        lines += [f"  {name}: {count:,} rows" for name, count in self.num_rows.items()]
        lines += [f"  {split}: no rows" for split in self.without_rows]
        lines += [f"  left out, {why}: {count:,}" for why, count in self.left_out.most_common()]
        return "\n".join(lines)


class _JsonFile:
    """A JSON list, row by row, with the rows' images as files beside it."""

    def __init__(self, output: Folder, name: str) -> None:
        self._output, self._name, self._temporary = output, name, f".writing-{name}"
        self._stream = output.open_for_writing(self._temporary)
        self._stream.write(b"[")
        self._empty = True

    def add(self, row: Row) -> None:
        text = json.dumps(_with_files(self._output, row), ensure_ascii=False)
        self._stream.write(f"{'' if self._empty else ','}\n{text}".encode())
        self._empty = False

    def finish(self) -> None:
        self._stream.write(b"\n]\n")
        self._stream.close()
        self._output.move(self._temporary, self._name)


class _ParquetFiles:
    """Parquet files with embedded images."""

    def __init__(self, output: Folder, table: Table, split: str) -> None:
        assert table.schema is not None
        self._schema = with_hf_metadata(table.schema)
        self._writer = DataWriter(
            output, "export", split, folder=table.folder.format(split=split), schema=self._schema
        )

    def add(self, row: Row) -> None:
        self._writer.add(pa.Table.from_pylist([row], schema=self._schema))

    def finish(self) -> None:
        self._writer.finish()


def _with_files(output: Folder, value: Any) -> Any:
    """The value with every image written to `images/` (once per content) and named by its path."""
    if isinstance(value, Image):
        suffix = _SUFFIXES.get(value.bytes[:2])
        if suffix is None:
            raise ValueError(
                f"an image begins with {value.bytes[:4]!r}: neither JPEG, PNG nor WebP"
            )
        name = f"images/{content_id(value.bytes)}{suffix}"
        if not output.exists(name):
            output.write(name, value.bytes, durable=False)
        return name
    if isinstance(value, Mapping):
        return {key: _with_files(output, item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_files(output, item) for item in value]
    return value


class _Output:
    """The files of an export. A table's file is created with its first row, so none is empty."""

    def __init__(self, target: Folder, form: Format) -> None:
        self._target, self._form = target, form
        self._sinks: dict[tuple[str, str], _JsonFile | _ParquetFiles] = {}

    @property
    def is_clear(self) -> bool:
        """Whether the folders that the export would write to are empty."""
        return not any(self._target.names(folder) for folder in self._folders())

    def add(self, table: Table, split: str, row: Row) -> None:
        key = (table.folder, split)
        if key not in self._sinks:
            self._sinks[key] = (
                _JsonFile(self._target, table.folder.format(split=split))
                if table.schema is None
                else _ParquetFiles(self._target, table, split)
            )
        self._sinks[key].add(row)

    def finish(self) -> None:
        """Give all files their final names, and write those that list the splits with rows."""
        for sink in self._sinks.values():
            sink.finish()
        begun = {split for _, split in self._sinks}
        splits = [split for split in (TRAIN, VALIDATION) if split in begun]
        for name, text in self._form.files(splits).items():
            self._target.write(name, text.encode())

    def discard(self) -> None:
        """Remove what was written: all of it, because the folders were empty before."""
        for sink in self._sinks.values():
            # Some stores show a file when its stream is closed, so it is closed first.
            with suppress(OSError, pa.ArrowException):
                sink.finish()
        for folder in self._folders():
            for name in self._target.names(folder):
                self._target.delete(f"{folder}/{name}" if folder else name)

    def _folders(self) -> list[str]:
        of_tables = {
            table.folder.format(split=split)
            for table in self._form.tables
            if table.schema is not None
            for split in (TRAIN, VALIDATION)
        }
        return ["", "images", *sorted(of_tables)]


def export_run(run: str, form: str, output: str, wanted: Wanted) -> ExportFacts:
    """Write the pairs of `run` to the folder `output` in this format; returns what it wrote.

    All pairs of one original image are on the same side of the split, in whatever run they stand,
    and both photos of a pair of two (`schemas.holdout`). Image paths in JSON files start from
    `output`. UsageError for an unknown format, an option that it does not use, a run without
    pairs, or a folder that is not empty. An export that fails leaves nothing behind.
    """
    if form not in FORMATS:
        raise UsageError(f"--format: {unknown('format', form, FORMATS)}")
    _check(wanted, FORMATS[form])
    source, target = Folder.at(run), Folder.at(output)
    if not source.names("data"):
        raise UsageError(f"{run} has no data/ with pairs: is it a finished run?")
    files = _Output(target, FORMATS[form])
    if not files.is_clear:
        raise UsageError(f"--output {output} is not empty; give a new folder")
    try:
        facts = _write(source, files, FORMATS[form], wanted)
        files.finish()
    except BaseException:
        files.discard()
        raise
    return facts


def _check(wanted: Wanted, form: Format) -> None:
    if not 0 <= wanted.validation < 1:
        raise UsageError(f"--validation {wanted.validation}: give a share from 0 to below 1")
    given = {
        "negative": (wanted.negative != "auto", f"--negative {wanted.negative}"),
        "both_sides": (wanted.both_sides, "--both-sides"),
    }
    for name, (is_given, option) in given.items():
        if is_given and name not in form.options:
            formats = ", ".join(other.name for other in FORMATS.values() if name in other.options)
            raise UsageError(
                f"{option} changes nothing in --format {form.name}; leave it out (it is for "
                f"{formats})"
            )


def _write(source: Folder, files: _Output, form: Format, wanted: Wanted) -> ExportFacts:
    facts = ExportFacts()
    for pair in _pairs(source):
        facts.num_pairs += 1
        split = _split(pair, wanted)
        try:
            rows = [(table, table.rows(pair, wanted)) for table in form.tables]
        except Unfit as why:
            facts.left_out[str(why)] += 1
            continue
        for table, of_table in rows:
            for row in of_table:
                files.add(table, split, row)
            facts.num_rows[f"{table.folder.format(split=split)} {split}"] += len(of_table)
    if not facts.num_rows:
        reasons = "; ".join(f"{why}: {n:,}" for why, n in facts.left_out.items())
        raise UsageError(f"no pair of {source.url} fits the format {form.name} ({reasons})")
    requested = [TRAIN, VALIDATION] if wanted.validation else [TRAIN]
    written = {name.rpartition(" ")[2] for name in facts.num_rows}
    facts.without_rows = [split for split in requested if split not in written]
    return facts


def _pairs(source: Folder) -> Iterator[Pair]:
    for table in read_pairs(source):
        for row in table.to_pylist():
            yield pair_from_row(row)


def _split(pair: Pair, wanted: Wanted) -> str:
    image = source_image(pair.chosen_image.path, pair.seed_id)
    fold = pair.provenance.params.get(FOLD)
    held_out = is_held_out(image, fold, wanted.validation, wanted.seed)
    return VALIDATION if held_out else TRAIN
