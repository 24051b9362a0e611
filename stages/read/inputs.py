"""Where input images live: files, URLs and cells of Parquet files. Bytes only, no images."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

_EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "hf": "hub"}
"""Which extra of this project brings the file system of a URL scheme."""

_NO_SUCH_FILE = {errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP}
"""Errors that mean a wrong path in a row. Any other error (permission, input/output, a network that
is down) is the machine's, and must not be counted as thousands of missing images."""

_REMOTE_READS = 8
"""Files fetched at once from an object store, where latency is most of the time."""


class MissingExtraError(ValueError):
    """A URL whose file system is not installed; the message holds the install line."""


def filesystem_of(url: str) -> tuple[Any, str]:
    """The fsspec file system of a local path or URL, and the path inside it.

    `MissingExtraError` with the install line if its package is not installed, `ValueError` for an
    unknown scheme.
    """
    try:
        filesystem, path = fsspec.core.url_to_fs(url)
    except ImportError as error:
        scheme = url.split("://", 1)[0]
        extra = _EXTRAS.get(scheme)
        how = f"pip install 'nearmiss[{extra}]'" if extra else str(error)
        raise MissingExtraError(f"cannot open {scheme}:// paths; install with: {how}") from error
    return filesystem, str(path)


def read_files(paths: Sequence[str]) -> list[bytes | None]:
    """Contents of local paths or URLs, in order; None where there is no such file.

    Any other failure raises.
    """
    contents: dict[str, bytes | None] = {}
    remote = sorted({path for path in paths if "://" in path})
    if remote:
        with ThreadPoolExecutor(max_workers=_REMOTE_READS) as pool:
            contents.update(zip(remote, pool.map(_read_file, remote), strict=True))
    for path in paths:
        if path not in contents:
            contents[path] = _read_file(path)
    return [contents[path] for path in paths]


def _read_file(path: str) -> bytes | None:
    filesystem, inner = filesystem_of(path)
    try:
        return bytes(filesystem.cat_file(inner))
    except OSError as error:
        # Remote file systems raise FileNotFoundError without a number.
        if isinstance(error, FileNotFoundError) or error.errno in _NO_SUCH_FILE:
            return None
        raise


def open_parquet(path: str) -> pq.ParquetFile:
    """A Parquet file at a local path or URL.

    Reading a column of a row group holds that column chunk in memory, or maps it where the file is
    local; `pre_buffer` would fetch the next ones too.
    """
    filesystem, inner = filesystem_of(path)
    local = isinstance(filesystem, LocalFileSystem) and Path(inner).stat().st_size > 0
    source = pa.memory_map(inner) if local else filesystem.open(inner, "rb")
    return pq.ParquetFile(source, pre_buffer=False)


def image_leaf(schema: pq.ParquetSchema, column: str) -> str | None:
    """Path of the leaf that holds the image bytes of a column; None where the column has none.

    The column is plain binary, the `{bytes, path}` struct of Hugging Face, or a list of those;
    dots in `column` descend into structs.
    """
    for index in range(len(schema)):
        leaf = schema.column(index)
        if leaf.physical_type != "BYTE_ARRAY" or leaf.logical_type.type == "STRING":
            continue
        if leaf.path == column or (
            leaf.path.startswith(f"{column}.") and leaf.path.endswith(".bytes")
        ):
            return str(leaf.path)
    return None


def read_embedded(path: str, column: str, rows: Sequence[int]) -> Mapping[int, bytes | None]:
    """Image bytes of these rows (counted from 0 over the file) of a Parquet column.

    Only the row groups that hold the rows are read, and of them only the image bytes. None where
    the cell is null. ValueError if the file has no such column or row. Reading takes time in
    proportion to the row group, however few its rows: 0.1 s for 100 MB.
    """
    with open_parquet(path) as file:
        leaf = image_leaf(file.schema, column)
        if leaf is None:
            raise ValueError(f"{path} has no column {column!r} with image bytes")
        sizes = [file.metadata.row_group(i).num_rows for i in range(file.metadata.num_row_groups)]
        starts = np.concatenate(([0], np.cumsum(sizes, dtype=np.int64)))
        if rows and not 0 <= min(rows) <= max(rows) < starts[-1]:
            raise ValueError(f"{path} has {starts[-1]} rows, asked for row {max(rows)}")
        found: dict[int, bytes | None] = {}
        for group in sorted({int(np.searchsorted(starts, row, "right")) - 1 for row in rows}):
            start, end = int(starts[group]), int(starts[group + 1])
            wanted = sorted({row - start for row in rows if start <= row < end})
            for index, data in zip(wanted, _pick(file, group, leaf, wanted), strict=True):
                found[start + index] = data
        return found


def _pick(file: pq.ParquetFile, group: int, leaf: str, wanted: list[int]) -> Iterator[bytes | None]:
    """The image bytes of some rows of a row group; the rest of the group is not kept."""
    offset, left = 0, iter(wanted)
    row = next(left, None)
    for batch in file.iter_batches(batch_size=32, row_groups=[group], columns=[leaf]):
        while row is not None and row < offset + batch.num_rows:
            yield _image_bytes(batch.column(0), row - offset)
            row = next(left, None)
        if row is None:
            return
        offset += batch.num_rows


def _image_bytes(array: pa.Array, index: int) -> bytes | None:
    value: Any = array[index].as_py()
    while isinstance(value, dict | list):  # {"bytes": ...}, [{"bytes": ...}], {"a": {"bytes": ...}}
        inner = list(value.values()) if isinstance(value, dict) else value
        value = inner[0] if inner else None
    return None if value is None else bytes(value)
