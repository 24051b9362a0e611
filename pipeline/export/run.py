"""Writes an export: reads the pairs of a finished run once, row group by row group."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from pipeline.errors import UsageError
from pipeline.export.formats import FORMATS, Format, Table
from pipeline.export.projections import Row, Unfit, Wanted
from schemas.files import Folder
from schemas.holdout import FOLD, TRAIN, VALIDATION, is_held_out, source_image
from schemas.ids import content_id
from schemas.outcomes import pair_from_row
from schemas.records import Image, Pair
from schemas.shards import DataWriter, read_pairs, with_hf_metadata

_SUFFIXES = {b"\xff\xd8": ".jpg", b"\x89P": ".png", b"RI": ".webp"}
"""File suffix by the first two bytes of an image."""


@dataclass
class ExportFacts:
    """What an export came to."""

    num_pairs: int = 0
    """Pairs of the run."""
    num_rows: Counter[str] = field(default_factory=Counter)
    """Rows by "table split"."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Pairs that made no row, by reason."""

    def text(self, output: str) -> str:
        """For a person."""
        lines = [f"{output}: {self.num_pairs:,} pairs"]
        lines += [f"  {name}: {count:,} rows" for name, count in self.num_rows.items()]
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


def export_run(run: str, form: str, output: str, wanted: Wanted) -> ExportFacts:
    """Write the pairs of `run` to the folder `output` in the form `form`; says what was written.

    All pairs of one original image are on the same side of the split, in whatever run they stand,
    and both photos of a pair of two (`schemas.holdout`).
    Image paths in JSON files start from `output`. UsageError for an unknown form, a run without
    pairs, or a folder that is not empty.
    """
    if form not in FORMATS:
        raise UsageError(f"--format {form}: known are {', '.join(FORMATS)}")
    if not 0 <= wanted.validation < 1:
        raise UsageError(f"--validation {wanted.validation}: give a share from 0 to below 1")
    source, target = Folder.at(run), Folder.at(output)
    if not source.names("data"):
        raise UsageError(f"{run} has no data/ with pairs: is it a finished run?")
    if target.names() or target.names("images"):
        raise UsageError(f"--output {output} is not empty; give a new folder")
    return _write(source, target, FORMATS[form], wanted)


def _write(source: Folder, target: Folder, form: Format, wanted: Wanted) -> ExportFacts:
    facts = ExportFacts()
    splits = [TRAIN, VALIDATION] if wanted.validation else [TRAIN]
    sinks: dict[tuple[str, str], _JsonFile | _ParquetFiles] = {
        (table.folder, split): _ParquetFiles(target, table, split)
        if table.schema is not None
        else _JsonFile(target, table.folder.format(split=split))
        for table in form.tables
        for split in splits
    }
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
                sinks[table.folder, split].add(row)
            facts.num_rows[f"{table.folder.format(split=split)} {split}"] += len(of_table)
    if not facts.num_rows:
        reasons = "; ".join(f"{why}: {n:,}" for why, n in facts.left_out.items())
        raise UsageError(f"no pair of {source.url} can be a row of {form.name} ({reasons})")
    for sink in sinks.values():
        sink.finish()
    for name, text in form.files(splits).items():
        target.write(name, text.encode())
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
