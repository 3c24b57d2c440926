"""Records to Parquet and back, by column, with an explicit schema derived from the dataclass.

str, int, float and bool (each of them optional), Literal of strings, tuple[..., ...] and nested dataclasses are
supported. Each file carries its own checksum, so that damage is seen even before its step has a manifest.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, fields
from functools import cache
from itertools import accumulate, chain
from operator import attrgetter
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from selfalign.store.files import FileDamaged, StoreError, parse_json, sha256, to_utf8

Record = TypeVar("Record")
_COUNTS, _SEALED = "selfalign.counts", "selfalign.sha256"  # in the metadata of each file
_SEAL_SIZE = 64
_SCALARS = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


class Kind(NamedTuple):
    """How one Python type is held: a scalar, a list of one kind, or a struct with its fields."""

    arrow: pa.DataType
    nullable: bool = False
    allowed: frozenset[str] | None = None  # of a Literal
    item: Kind | None = None  # of a list
    record: type | None = None  # of a struct
    fields: tuple[tuple[str, Kind], ...] = ()


class Texts(NamedTuple):
    """A column of texts: each one that occurs, and for every row its place among them [N], -1 for None."""

    distinct: list[str]
    codes: np.ndarray


@cache
def kind_of(annotation: Any) -> Kind:
    """Return how values of a type annotation are held; a TypeError names one that cannot be."""
    if annotation in _SCALARS:
        return Kind(_SCALARS[annotation])
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, UnionType) and len(arguments) == 2 and NoneType in arguments:
        inner = kind_of(next(argument for argument in arguments if argument is not NoneType))
        if inner.item is None and inner.record is None:
            return inner._replace(nullable=True)
    if origin is Literal and all(isinstance(argument, str) for argument in arguments):
        return Kind(pa.string(), allowed=frozenset(arguments))
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:
        item = kind_of(arguments[0])
        return Kind(pa.list_(pa.field("element", item.arrow, item.nullable)), item=item)
    if isinstance(annotation, type) and hasattr(annotation, "__dataclass_fields__"):
        return _struct(annotation)
    raise TypeError(f"no Parquet column can hold the type {annotation}")


def _struct(record: type) -> Kind:
    hints = get_type_hints(record)
    members = tuple((field.name, kind_of(hints[field.name])) for field in fields(record))
    arrow = pa.struct([pa.field(name, kind.arrow, kind.nullable) for name, kind in members])
    return Kind(arrow, record=record, fields=members)


def schema_of(record_type: type) -> pa.Schema:
    """Return the Parquet schema of a record type."""
    return pa.schema([pa.field(name, kind.arrow, kind.nullable) for name, kind in kind_of(record_type).fields])


# Writing -----------------------------------------------------------------------------------------------------------


def encode(rows: Sequence[Any], record_type: type, counts: Mapping[str, int]) -> bytes:
    """Return the rows as one Parquet file with `counts` in its metadata. The same rows give the same bytes."""
    if any(type(row) is not record_type for row in rows):
        odd = next(type(row) for row in rows if type(row) is not record_type)
        raise StoreError(f"a shard of {record_type.__name__} cannot hold a {odd.__name__}")
    columns = [
        _column(f"{record_type.__name__}.{name}", map(attrgetter(name), rows), kind)
        for name, kind in kind_of(record_type).fields
    ]
    metadata = {_COUNTS: json.dumps(dict(counts), sort_keys=True), _SEALED: "0" * _SEAL_SIZE}
    table = pa.Table.from_arrays(columns, schema=schema_of(record_type).with_metadata(metadata))
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    data = sink.getvalue().to_pybytes()
    start = _seal_start(data)
    if start is None or data[start : start + _SEAL_SIZE] != b"0" * _SEAL_SIZE:
        raise RuntimeError(f"pyarrow {pa.__version__} lays out Parquet metadata in a way that selfalign does not know")
    return data[:start] + _seal(data, start) + data[start + _SEAL_SIZE :]


def _seal_start(data: bytes) -> int | None:
    """Return where the checksum stands in a file: in the footer, two bytes (Thrift's type and length) after its name.

    The file's metadata follows all that the rows can put into a footer, so the last such name is the right one.
    """
    found = data.rfind(_SEALED.encode())
    return found + len(_SEALED) + 2 if found >= 0 else None


def _seal(data: bytes, start: int) -> bytes:
    """Return the SHA-256 of a whole file, but for its checksum, which counts as zeros."""
    return sha256(data[:start] + b"0" * _SEAL_SIZE + data[start + _SEAL_SIZE :]).encode()


def _column(name: str, values: Iterable[Any], kind: Kind) -> pa.Array:
    values = list(values)
    if kind.item is not None:
        offsets = pa.array(chain((0,), accumulate(map(len, values))), pa.int32(), size=len(values) + 1)
        return pa.ListArray.from_arrays(offsets, _column(name, chain.from_iterable(values), kind.item), type=kind.arrow)
    if kind.record is not None:
        columns = [_column(f"{name}.{field}", map(attrgetter(field), values), inner) for field, inner in kind.fields]
        return pa.StructArray.from_arrays(columns, fields=list(kind.arrow))
    array = _scalars(name, values, kind)
    if array.null_count and not kind.nullable:
        raise StoreError(f"{name} is None in row {values.index(None)}, but must have a value")
    if kind.allowed is not None:
        _check_allowed(name, set(values), kind)
    return array


def _scalars(name: str, values: list[Any], kind: Kind) -> pa.Array:
    try:
        if pa.types.is_integer(kind.arrow):  # given the type, Arrow would cut 1.5 down to 1
            array = pa.array(values)
            if not (pa.types.is_integer(array.type) or pa.types.is_null(array.type)):
                raise StoreError(f"{name} holds a value of the wrong type: {array.type} among integers")
            return array.cast(kind.arrow)
        return pa.array(values, kind.arrow)
    except UnicodeEncodeError:  # a lone surrogate, which no encoding carries
        return pa.array([value if value is None else to_utf8(value).decode() for value in values], kind.arrow)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        raise StoreError(f"{name} holds a value of the wrong type: {error}") from error


def _check_allowed(name: str, values: set[Any], kind: Kind) -> None:
    odd = values - (kind.allowed or frozenset()) - ({None} if kind.nullable else set())
    if odd:
        allowed = ", ".join(sorted(kind.allowed or ()))
        raise StoreError(f"{name} holds {min(map(repr, odd))}, which is none of {allowed}")


def read_counts(path: Path) -> dict[str, int]:
    """Return the counts that a Parquet file was written with. Raises FileDamaged."""
    try:
        metadata = pq.read_metadata(path).metadata or {}
    except (OSError, pa.ArrowException) as error:
        raise FileDamaged(f"{path}: not a whole Parquet file ({str(error).splitlines()[0][:200]}).") from error
    return parse_json(metadata.get(_COUNTS.encode(), b"{}"), str(path))


def check_seal(data: bytes, where: str) -> None:
    """Raise FileDamaged unless the bytes are, to the last bit, those of a file that `encode` made."""
    start = _seal_start(data)
    if start is None or _seal(data, start) != data[start : start + _SEAL_SIZE]:
        raise FileDamaged(f"{where}: does not match the checksum within it.")


# Reading -----------------------------------------------------------------------------------------------------------


def decode(data: bytes, record_type: type[Record], where: str) -> list[Record]:
    """Return the records of one Parquet file. Raises FileDamaged naming `where` if it does not hold them.

    Whether the bytes are those written is for `check_seal` or a manifest to say.
    """
    table = _table(data, where)
    try:
        columns = [_values(name, table, field, record_type) for name, field in _columns_of(record_type)]
        return list(map(record_type, *columns))
    except (StoreError, ValueError, pa.ArrowException) as error:
        raise FileDamaged(f"{where}: does not hold valid {record_type.__name__} records ({error}).") from error


def columns(
    shards: Iterable[tuple[bytes, str]], record_type: type, names: Sequence[str]
) -> dict[str, Texts | np.ndarray]:
    """Return some columns of the records of several files, for counting: a million rows take a second or two.

    Texts become Texts, numbers an array with NaN for None, and of tuples the lengths are kept. `shards` are files with
    their names. Raises FileDamaged naming a file that does not hold such records.
    """
    fields_of = dict(_columns_of(record_type))
    parts: dict[str, list[pa.Array]] = {name: [] for name in names}
    for data, where in shards:
        table = _table(data, where, names)
        try:
            for name in names:
                parts[name].append(_packed(name, _checked(name, table, fields_of[name]), fields_of[name][0]))
        except StoreError as error:
            raise FileDamaged(f"{where}: does not hold valid {record_type.__name__} records ({error}).") from error
    return {name: _unpacked(parts[name], fields_of[name][0]) for name in names}


def _table(data: bytes, where: str, names: Sequence[str] | None = None) -> pa.Table:
    """The columns of a file, or those of some names that it has."""
    try:
        file = pq.ParquetFile(pa.BufferReader(data))
        held = None if names is None else [name for name in names if name in file.schema_arrow.names]
        return file.read(columns=held, use_threads=False)
    except (OSError, pa.ArrowException) as error:
        raise FileDamaged(f"{where}: not a whole Parquet file ({str(error).splitlines()[0][:200]}).") from error


def _packed(name: str, column: pa.Array, kind: Kind) -> pa.Array:
    if kind.item is not None:
        return column.value_lengths()
    if not pa.types.is_string(column.type):
        return column
    column = column.dictionary_encode()
    if kind.allowed is not None:
        _check_allowed(name, set(column.dictionary.to_pylist()), kind)
    return column


def _unpacked(parts: Sequence[pa.Array], kind: Kind) -> Texts | np.ndarray:
    if kind.item is None and pa.types.is_string(kind.arrow):
        places: dict[str, int] = {}
        codes = []
        for part in parts:
            here = np.array([places.setdefault(t, len(places)) for t in part.dictionary.to_pylist()], dtype=np.int64)
            codes.append(_with_gaps(part.indices, here, -1))
        return Texts(list(places), np.concatenate([*codes, np.zeros(0, dtype=np.int64)]))
    if kind.nullable:
        return np.concatenate([*(_with_gaps(part, None, math.nan) for part in parts), np.zeros(0)])
    return np.concatenate([*map(np.from_dlpack, parts), np.zeros(0, dtype=np.int64 if kind.item else None)])


def _with_gaps(array: pa.Array, meaning: np.ndarray | None, gap: float) -> np.ndarray:
    """An array of numbers, or of what they mean as places, with `gap` for None; Arrow's own ways import pandas."""
    values = np.from_dlpack(array.drop_null())
    values = values if meaning is None else meaning[values]
    if not array.null_count:
        return values
    whole = np.full(len(array), gap, dtype=np.float64 if meaning is None else np.int64)
    whole[np.from_dlpack(array.is_valid().cast(pa.uint8())).astype(bool)] = values
    return whole


def _columns_of(record_type: type) -> list[tuple[str, Any]]:
    defaults = {field.name: field.default for field in fields(record_type)}
    return [(name, (kind, defaults[name])) for name, kind in kind_of(record_type).fields]


def _values(name: str, table: pa.Table, field: tuple[Kind, Any], record_type: type) -> list[Any]:
    if name not in table.column_names and field[1] is not MISSING:
        return [field[1]] * table.num_rows  # written before the field existed
    return _python(f"{record_type.__name__}.{name}", _checked(name, table, field), field[0])


def _checked(name: str, table: pa.Table, field: tuple[Kind, Any]) -> pa.Array:
    """A column, if it is of the right type; the default in each row where the file is older than the field."""
    kind, default = field
    if name not in table.column_names:
        if default is MISSING:
            raise StoreError(f"the column {name} is missing")
        return pa.array([default] * table.num_rows, kind.arrow)
    column = table.column(name)
    if not column.type.equals(kind.arrow):
        raise StoreError(f"the column {name} is {column.type}, not {kind.arrow}")
    array = column.combine_chunks()
    return array if isinstance(array, pa.Array) else pa.concat_arrays(array.chunks)


def _python(name: str, array: pa.Array, kind: Kind) -> list[Any]:
    if array.null_count and not kind.nullable:
        raise StoreError(f"{name} is null in {array.null_count} rows")
    if kind.item is not None:
        items = _python(name, array.flatten(), kind.item)
        ends = list(accumulate(array.value_lengths().to_pylist()))
        return [tuple(items[start:end]) for start, end in zip([0, *ends], ends, strict=False)]
    if kind.record is not None:
        columns = [
            _python(f"{name}.{field}", child, inner)
            for (field, inner), child in zip(kind.fields, array.flatten(), strict=True)
        ]
        return list(map(kind.record, *columns))
    if pa.types.is_primitive(array.type) and not array.null_count and not pa.types.is_boolean(array.type):
        return np.from_dlpack(array).tolist()  # Arrow's own to_numpy imports pandas
    values = array.to_pylist()
    if kind.allowed is not None:
        _check_allowed(name, set(values), kind)
    return values
