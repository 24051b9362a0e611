"""Records to Arrow and back, with one explicit schema per record.

The schema of a record follows from its annotations, never from the data: a column that happens to
be all null keeps its type. Every field is nullable, because Hugging Face's `Image` recognises
exactly `struct<bytes: binary, path: string>`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import StrEnum
from functools import cache
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import pyarrow as pa

Record = TypeVar("Record")


@dataclass(frozen=True, slots=True)
class _Codec:
    """How one annotation is stored: its Arrow type, and the plain Python value both ways."""

    type: pa.DataType
    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]


def _same(value: Any) -> Any:
    return value


_PLAIN: dict[Any, pa.DataType] = {
    str: pa.string(),
    bytes: pa.binary(),
    int: pa.int64(),
    float: pa.float64(),
    bool: pa.bool_(),
}


@cache
def _codec(annotation: Any) -> _Codec:
    if annotation in _PLAIN:
        return _Codec(_PLAIN[annotation], _same, _same)
    origin, args = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType):
        (inner,) = (_codec(arg) for arg in args if arg is not NoneType)
        return _Codec(
            inner.type,
            lambda value: None if value is None else inner.encode(value),
            lambda value: None if value is None else inner.decode(value),
        )
    if origin is tuple and args[1:] == (Ellipsis,):
        item = _codec(args[0])
        return _Codec(
            pa.list_(item.type),
            lambda value: [item.encode(x) for x in value],
            lambda value: tuple(item.decode(x) for x in value),
        )
    if origin is Mapping:
        item = _codec(args[1])
        # A list of (name, value): `datasets` has no map type.
        return _Codec(
            pa.list_(pa.struct([("name", pa.string()), ("value", item.type)])),
            lambda value: [{"name": k, "value": item.encode(v)} for k, v in value.items()],
            lambda value: {x["name"]: item.decode(x["value"]) for x in value},
        )
    if isinstance(annotation, type):
        if issubclass(annotation, StrEnum):
            return _Codec(pa.string(), str, annotation)
        if issubclass(annotation, tuple):  # a NamedTuple of equal numbers: Box, Span
            (number,) = set(get_type_hints(annotation).values())
            cls: Any = annotation
            return _Codec(
                pa.list_(_codec(number).type),
                lambda value: [number(x) for x in value],
                lambda value: cls(*value),
            )
        if is_dataclass(annotation):
            return _struct(annotation)
    raise TypeError(
        f"no Arrow form for {annotation!r}; use str, int, float, bool, bytes, a tuple, "
        "a Mapping, a NamedTuple of numbers, a StrEnum or a dataclass of these"
    )


def _struct(cls: Any) -> _Codec:
    hints = get_type_hints(cls)
    parts = [(f.name, _codec(hints[f.name])) for f in fields(cls)]

    def decode(value: Mapping[str, Any]) -> Any:
        return cls(**{name: codec.decode(value[name]) for name, codec in parts})

    return _Codec(
        pa.struct([(name, codec.type) for name, codec in parts]),
        lambda record: {name: codec.encode(getattr(record, name)) for name, codec in parts},
        decode,
    )


def _codec_of(record_type: Any) -> _Codec:
    return _codec(record_type)


def schema_of(record_type: type) -> pa.Schema:
    """The Arrow schema of a record: one field per dataclass field, in order."""
    return pa.schema(list(_codec_of(record_type).type))


def to_row(record: object) -> dict[str, Any]:
    """The record as plain Python values that fit `schema_of(type(record))`."""
    row: dict[str, Any] = _codec_of(type(record)).encode(record)
    return row


def from_row(record_type: type[Record], row: Mapping[str, Any]) -> Record:
    """The record that `to_row` gave; KeyError if a column is missing."""
    record: Record = _codec_of(record_type).decode(row)
    return record


def to_table(records: Sequence[object], record_type: type) -> pa.Table:
    """Records of one type as a table with their explicit schema."""
    return pa.Table.from_pylist([to_row(r) for r in records], schema=schema_of(record_type))


def from_table(table: pa.Table, record_type: type[Record]) -> list[Record]:
    """The records of a table; ValueError if its columns are not those of the record."""
    expected = schema_of(record_type)
    if not table.schema.equals(expected, check_metadata=False):
        missing = [f.name for f in expected if f.name not in table.schema.names]
        raise ValueError(
            f"table does not hold {record_type.__name__} records: "
            f"{'missing columns ' + ', '.join(missing) if missing else 'column types differ'}; "
            "it was written by another schema version"
        )
    return [from_row(record_type, row) for row in table.to_pylist()]


def to_bytes(records: Sequence[object], record_type: type) -> bytes:
    """Records as one Arrow IPC stream, to be sent between processes."""
    table = to_table(records, record_type)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def from_bytes(data: bytes, record_type: type[Record]) -> list[Record]:
    """The records that `to_bytes` gave."""
    with pa.ipc.open_stream(data) as reader:
        return from_table(reader.read_all(), record_type)
