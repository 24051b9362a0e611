"""Parquet files: parts (all outcomes of a shard) and data shards (accepted pairs).

Writer options are those of `datasets` itself, without content-defined chunking: images are stored
uncompressed and byte-stable, so that a store can deduplicate them between versions.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from schemas.arrow import schema_of
from schemas.files import Folder
from schemas.outcomes import OUTCOME_SCHEMA, PAIR
from schemas.records import SCHEMA_VERSION, Pair

ROW_GROUP_BYTES = 32 * 2**20
"""A row group ends at this many bytes: a random read of it costs about 80 ms."""
ROW_GROUP_ROWS = 64
"""... or at this many pairs, whichever comes first."""
SHARD_BYTES = 500 * 10**6
"""Size at which a data file ends, as in `datasets`."""

IMAGE_TYPE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
"""Storage of an image column, as `datasets` wants it: this order, these types."""


def hf_features(schema: pa.Schema) -> dict[str, Any]:
    """The `datasets.Features` of a schema, as the JSON that `datasets` stores and reads."""
    return {field.name: _hf_feature(field.type) for field in schema}


def _hf_feature(kind: pa.DataType) -> dict[str, Any]:
    if kind.equals(IMAGE_TYPE):
        return {"_type": "Image"}
    if pa.types.is_struct(kind):
        return {field.name: _hf_feature(field.type) for field in kind}
    if pa.types.is_list(kind):
        return {"feature": _hf_feature(kind.value_type), "_type": "List"}
    return {"dtype": {"double": "float64"}.get(str(kind), str(kind)), "_type": "Value"}


def with_hf_metadata(schema: pa.Schema) -> pa.Schema:
    """The schema with the metadata that makes `load_dataset` decode its image columns."""
    info = {"info": {"features": hf_features(schema)}}
    return schema.with_metadata(
        {"huggingface": json.dumps(info), "nearmiss_schema_version": str(SCHEMA_VERSION)}
    )


DATA_SCHEMA: pa.Schema = with_hf_metadata(schema_of(Pair))
"""Columns of `data/*.parquet`, with the Hugging Face metadata."""


def _leaves(name: str, kind: pa.DataType) -> Iterator[tuple[str, bool]]:
    """Parquet leaf paths below a column, each with whether it holds image bytes."""
    if pa.types.is_struct(kind):
        for child in kind:
            for path, _ in _leaves(f"{name}.{child.name}", child.type):
                yield path, kind.equals(IMAGE_TYPE) and child.name == "bytes"
    elif pa.types.is_list(kind):
        yield from _leaves(f"{name}.list.element", kind.value_type)
    else:
        yield name, False


def _writer(sink: Any, schema: pa.Schema) -> pq.ParquetWriter:
    leaves = [leaf for field in schema for leaf in _leaves(field.name, field.type)]
    return pq.ParquetWriter(
        sink,
        schema,
        # JPEG does not compress further, and a dictionary of image bytes only costs memory.
        compression={path: "none" if image else "zstd" for path, image in leaves},
        use_dictionary=[path for path, image in leaves if not image],
        column_encoding={path: "PLAIN" for path, image in leaves if image},
        write_page_index=True,
        write_page_checksum=True,
    )


class PartError(Exception):
    """Copying the pairs of a part failed; the cause says why."""

    def __init__(self, shard: int) -> None:
        """`shard` is the number of the part."""
        super().__init__(f"{part_name(shard)} could not be copied")
        self.shard = shard


def part_name(shard: int) -> str:
    """Name of a shard's part inside the run directory; its existence is the record of the shard."""
    return f"parts/part-{shard:05d}.parquet"


def write_part(
    run: Folder, shard: int, tables: Iterable[pa.Table], facts: Mapping[str, str]
) -> None:
    """Write all outcomes of a shard, atomically, with `facts` in the file's metadata.

    `tables` are rows of `OUTCOME_SCHEMA` in order, cut anywhere.
    """
    schema = with_hf_metadata(OUTCOME_SCHEMA)
    schema = schema.with_metadata({**(schema.metadata or {}), **facts})
    sink = pa.BufferOutputStream()
    with _writer(sink, schema) as writer:
        for group in _in_groups(tables):
            writer.write_table(group.cast(schema), row_group_size=ROW_GROUP_ROWS)
    run.write(part_name(shard), sink.getvalue())


def _in_groups(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    pending: list[pa.Table] = []
    for table in tables:
        pending.append(table)
        if sum(t.num_rows for t in pending) >= ROW_GROUP_ROWS:
            yield pa.concat_tables(pending).combine_chunks()
            pending = []
    if pending:
        yield pa.concat_tables(pending).combine_chunks()


def read_part(
    run: Folder, shard: int, columns: Sequence[str] | None = None, *, only: str | None = None
) -> Iterator[pa.Table]:
    """A part's rows, row group by row group; `only` keeps the rows of one status.

    Raises OSError or ArrowInvalid on a damaged file: page checksums are verified.
    """
    with run.open(part_name(shard)) as source:
        file = pq.ParquetFile(source, page_checksum_verification=True)
        for group in range(file.num_row_groups):
            if only is not None and only not in (
                statuses := file.read_row_group(group, ["status"])["status"].to_pylist()
            ):
                continue
            table = file.read_row_group(group, list(columns) if columns else None)
            if only is not None:
                table = table.filter(pc.equal(pa.array(statuses), only))
            yield table


@dataclass
class DataWriter:
    """Writes rows with images as `data/{split}-00000-of-0000N.parquet`, in the order they come.

    The files have temporary names until `finish`, because N is unknown until then.
    """

    run: Folder
    """The run directory, or the root of an export."""
    writer: str
    """Names the writer in the temporary names, so that two never write the same file."""
    split: str = "train"
    """Split name in the file names."""
    shard_bytes: int = SHARD_BYTES
    """Size at which a file ends."""
    folder: str = "data"
    """Sub-folder that the files go to; nothing else may write there."""
    schema: pa.Schema = DATA_SCHEMA
    """Columns, with the Hugging Face metadata."""
    num_rows: int = field(default=0, init=False)
    """Pairs written so far."""
    _num_files: int = field(default=0, init=False)
    _file_bytes: int = field(default=0, init=False)
    _sink: Any = field(default=None, init=False)
    _open: pq.ParquetWriter | None = field(default=None, init=False)
    _pending: list[pa.Table] = field(default_factory=list, init=False)
    _pending_bytes: int = field(default=0, init=False)
    _pending_rows: int = field(default=0, init=False)

    def add(self, table: pa.Table) -> None:
        """Append rows of `schema`; the images' bytes are copied, never encoded again."""
        most = min(ROW_GROUP_BYTES, self.shard_bytes)
        for start in range(table.num_rows):
            row = table.slice(start, 1)
            size = _image_bytes(row)
            if self._pending_rows == ROW_GROUP_ROWS or self._pending_bytes + size > most:
                self._flush()
            self._pending.append(row)
            self._pending_bytes += size
            self._pending_rows += 1

    def _flush(self) -> None:
        if not self._pending:
            return
        if self._open is not None and self._file_bytes + self._pending_bytes > self.shard_bytes:
            self._close_file()
        if self._open is None:
            self._sink = self.run.open_for_writing(self._temporary(self._num_files))
            self._open = _writer(self._sink, self.schema)
            self._num_files += 1
        group = pa.concat_tables(self._pending).combine_chunks().cast(self.schema)
        self._open.write_table(group, row_group_size=ROW_GROUP_ROWS)
        self.num_rows += self._pending_rows
        self._file_bytes += self._pending_bytes
        self._pending, self._pending_bytes, self._pending_rows = [], 0, 0

    def _temporary(self, index: int) -> str:
        return f"{self.folder}/.writing-{self.split}-{self.writer}-{index:05d}"

    def _close_file(self) -> None:
        if self._open is not None:
            self._open.close()
            self._sink.close()
        self._open, self._sink, self._file_bytes = None, None, 0

    def finish(self) -> list[str]:
        """Give the files their final names and remove those of an earlier finish; returns names."""
        self._flush()
        self._close_file()
        final = [
            f"{self.folder}/{self.split}-{i:05d}-of-{self._num_files:05d}.parquet"
            for i in range(self._num_files)
        ]
        keep = {*final, *(self._temporary(i) for i in range(self._num_files))}
        for name in self.run.names(self.folder):
            mine = name.startswith((f"{self.split}-", f".writing-{self.split}-"))
            if mine and f"{self.folder}/{name}" not in keep:
                self.run.delete(f"{self.folder}/{name}")
        for index, name in enumerate(final):
            self.run.move(self._temporary(index), name)
        return final


def _image_bytes(row: pa.Table) -> int:
    total = 0
    for column in row.columns:
        images = column
        if pa.types.is_list(column.type):
            images = pc.list_flatten(column)
        if images.type.equals(IMAGE_TYPE):
            total += pc.sum(pc.binary_length(pc.struct_field(images, "bytes"))).as_py() or 0
    return total


def write_data(
    run: Folder, shards: Sequence[int], writer_name: str, shard_bytes: int = SHARD_BYTES
) -> list[str]:
    """Copy the accepted pairs of the parts, in shard order, into `data/`; returns file names.

    Raises PartError, with its cause, if a part cannot be copied.
    """
    writer = DataWriter(run, writer_name, shard_bytes=shard_bytes)
    names = schema_of(Pair).names
    for shard in shards:
        try:
            for table in read_part(run, shard, names, only=PAIR):
                writer.add(table.select(names))
        except (OSError, pa.ArrowException) as error:
            raise PartError(shard) from error
    return writer.finish()


def read_pairs(run: Folder, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
    """The accepted pairs of a finished run, row group by row group."""
    for name in run.names("data"):
        if name.startswith("."):
            continue
        with run.open(f"data/{name}") as source:
            file = pq.ParquetFile(source, page_checksum_verification=True)
            for group in range(file.num_row_groups):
                yield file.read_row_group(group, list(columns) if columns else None)
