"""Parquet files: rows streamed without the image bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from hashlib import blake2b

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.sources.cells import EmbeddedImage, cell_of
from pipeline.sources.columns import IMAGE_FIELDS, Mapped
from pipeline.sources.errors import Place, SourceError
from pipeline.sources.files import Found, InputFile
from pipeline.sources.formats.base import Input, PlacedRow, Table
from stages.read.inputs import image_leaf, open_parquet

_BATCH_ROWS = 128
"""Small, because images may be inline as data URLs of a megabyte each."""
_TAIL_BYTES = 8
"""Length of the footer (4 bytes, little-endian) and the magic "PAR1"."""


class Parquet(Table):
    """Read by batches, without the bytes of embedded images."""

    name = "parquet"
    known_by = ".parquet"
    suffixes = (".parquet",)

    def find(self, found: Found) -> Input | None:
        """The `.parquet` files."""
        files = tuple(found.file(name) for name in found.ending(".parquet"))
        return Input(found.url, self, files) if files else None

    def columns_of(self, source: Input) -> Sequence[str]:
        """Columns of the first file, those inside structs with dots."""
        file = source.files[0]
        with _readable(file), open_parquet(file.url) as parquet:
            names: list[str] = []
            for field in parquet.schema_arrow:
                _collect(field, "", names)
            return names

    def rows(self, source: Input, mapped: Mapped) -> Iterator[PlacedRow]:
        """The rows, with only the columns that fill a field; images as `EmbeddedImage`."""
        for file in source.files:
            with _readable(file), open_parquet(file.url) as parquet:
                yield from _file_rows(file, parquet, mapped)

    def fingerprint(self, file: InputFile) -> bytes:
        """Of size and footer (schema, statistics, place and length of every column chunk).

        The images do not count: they may be terabytes.
        """
        with file.open() as stream:
            size = stream.seek(0, 2)
            stream.seek(max(0, size - _TAIL_BYTES))
            tail = stream.read(_TAIL_BYTES)
            if len(tail) < _TAIL_BYTES or tail[4:] != b"PAR1":
                raise SourceError(f"{file.url}: not a Parquet file (no PAR1 at its end)")
            length = int.from_bytes(tail[:4], "little") + _TAIL_BYTES
            stream.seek(max(0, size - length))
            content = size.to_bytes(8, "little") + stream.read(length)
            return blake2b(content, digest_size=16).digest()


def _collect(field: pa.Field, prefix: str, names: list[str]) -> None:
    names.append(f"{prefix}{field.name}")
    if pa.types.is_struct(field.type):
        for inner in field.type:
            _collect(inner, f"{prefix}{field.name}.", names)


def _file_rows(file: InputFile, parquet: pq.ParquetFile, mapped: Mapped) -> Iterator[PlacedRow]:
    paths = [parquet.schema.column(i).path for i in range(len(parquet.schema))]
    for field, column in mapped.columns.items():
        if not any(_inside(path, column) for path in paths):
            raise SourceError(f"{file.url}: no column {column!r} for field {field}")
    columns = [mapped.columns[field] for field in IMAGE_FIELDS if field in mapped.columns]
    images = {c: leaf for c in columns if (leaf := image_leaf(parquet.schema, c)) is not None}
    leaves = [
        path
        for path in paths
        if path not in images.values()
        and any(_inside(path, column) for column in mapped.columns.values())
    ]
    start = 0
    for group in range(parquet.metadata.num_row_groups):
        counts = {
            column: _num_images(parquet, group, paths.index(leaf), leaf)
            for column, leaf in images.items()
        }
        offset = 0
        batches = parquet.iter_batches(batch_size=_BATCH_ROWS, row_groups=[group], columns=leaves)
        for batch in batches:
            for index, cells in enumerate(batch.to_pylist()):
                row = start + offset + index
                for column, of_column in counts.items():
                    embedded = EmbeddedImage(file.url, file.key, column, row)
                    count = int(of_column[offset + index])
                    # Without bytes, what was read beside them may hold a path.
                    cells[column] = [embedded] * count or cell_of(cells, column)
                yield PlacedRow(Place(file.url, file.name, "row", row), cells)
            offset += batch.num_rows
        start += offset


def _inside(leaf: str, column: str) -> bool:
    return leaf == column or leaf.startswith(f"{column}.")


def _num_images(parquet: pq.ParquetFile, group: int, index: int, leaf: str) -> NDArray[np.int64]:
    """How many embedded images each row of a row group has.

    The statistics tell where all have one or none; else the bytes are read, a few at a time.
    """
    chunk = parquet.metadata.row_group(group).column(index)
    num_rows = parquet.metadata.row_group(group).num_rows
    statistics = chunk.statistics
    # As many values as rows: no list holds two images.
    if statistics is not None and statistics.has_null_count and chunk.num_values == num_rows:
        if statistics.null_count == 0:
            return np.ones(num_rows, dtype=np.int64)
        if statistics.null_count == num_rows:
            return np.zeros(num_rows, dtype=np.int64)
    batches = parquet.iter_batches(batch_size=32, row_groups=[group], columns=[leaf])
    return np.concatenate([_count(batch.column(0)) for batch in batches])


def _count(array: pa.Array) -> NDArray[np.int64]:
    """Number of images in each cell; of a list, its length, or 0 if its first element is null."""
    if pa.types.is_struct(array.type):
        return _count(array.flatten()[0])
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
        inner = np.append(_count(array.flatten()), 0)
        starts = np.cumsum(lengths) - lengths
        return np.where(lengths > 0, lengths * (inner[starts] > 0), 0).astype(np.int64)
    return np.asarray(array.is_valid().to_numpy(zero_copy_only=False), dtype=np.int64)


@contextmanager
def _readable(file: InputFile) -> Iterator[None]:
    """Turn a damaged file into an error that names it."""
    try:
        yield
    except SourceError:
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        problem = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise SourceError(f"{file.url}: not a readable Parquet file: {problem}") from error
