"""Content hashes: what a sample was, independent of how it was stored (docs/format.md, section 3)."""

from __future__ import annotations

import hashlib
import math
import struct
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.types as kinds

from softcache.errors import TransferSetError


def hash_rows(table: pa.Table) -> np.ndarray[Any, Any]:
    """Return the content hash of each row over all columns, ordered by name: uint8 [rows, 32]."""
    names = sorted(table.column_names)
    heads = [_text(name) for name in names]
    columns = [_encode(_one_chunk(table[name]), name) for name in names]
    out = np.empty((table.num_rows, 32), np.uint8)
    for row, values in enumerate(zip(*columns, strict=True)):
        digest = hashlib.sha256()
        for head, value in zip(heads, values, strict=True):
            digest.update(head)
            digest.update(value)
        out[row] = np.frombuffer(digest.digest(), np.uint8)
    return out


def _one_chunk(column: pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks()
    return array.storage if isinstance(array, pa.ExtensionArray) else array


def _encode(array: pa.Array, name: str) -> Iterable[bytes]:
    numbers = fixed_numbers(array)
    if numbers is not None and numbers.ndim > 1:
        head = _array_head(numbers.dtype, numbers.shape[1:])
        return (head + row.tobytes() for row in numbers)
    kind = array.type
    if kinds.is_dictionary(kind):
        return _encode(array.dictionary_decode(), name)
    if (kinds.is_list(kind) or kinds.is_large_list(kind)) and _is_number(kind.value_type):
        return (b"n" if v is None else _numeric_list(v) for v in array)
    if kinds.is_temporal(kind):
        array = array.cast(pa.int32() if kind.bit_width == 32 else pa.int64())
    if kinds.is_decimal(kind):
        raise TransferSetError(f"column {name}: decimals cannot be hashed; cast them to strings or floats")
    return (_value(v) for v in array)


def fixed_numbers(array: pa.Array) -> np.ndarray[Any, Any] | None:
    """Return a column of numbers, or of (nested) fixed-size lists of numbers, as one array; None for any other."""
    shape: list[int] = [len(array)]
    if array.null_count:
        return None
    while kinds.is_fixed_size_list(array.type):
        shape.append(array.type.list_size)
        array = array.flatten()
        if array.null_count:
            return None
    if not _is_number(array.type):
        return None
    values: np.ndarray[Any, Any] = array.to_numpy(zero_copy_only=False)
    return values.reshape(shape) if math.prod(shape) == len(values) else None


def _is_number(kind: pa.DataType) -> bool:
    return bool(kinds.is_integer(kind) or kinds.is_floating(kind))


def _numeric_list(scalar: pa.Scalar) -> bytes:
    values = scalar.values
    if values.null_count:
        return _value(scalar, plain_list=True)
    numbers: np.ndarray[Any, Any] = values.to_numpy(zero_copy_only=False)
    return _array_head(numbers.dtype, numbers.shape) + numbers.tobytes()


def _array_head(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    return b"a" + _text(dtype.name) + struct.pack(f"<{len(shape) + 1}Q", len(shape), *shape)


def _value(scalar: pa.Scalar, *, plain_list: bool = False) -> bytes:
    kind = scalar.type
    if not scalar.is_valid:
        return b"n"
    if kinds.is_fixed_size_list(kind) or kinds.is_list(kind) or kinds.is_large_list(kind):
        items = scalar.values
        if not plain_list and _is_number(kind.value_type):
            return _numeric_list(scalar)
        return b"l" + struct.pack("<Q", len(items)) + b"".join(_encode(items, "list"))
    if kinds.is_struct(kind):
        parts = [_text(f.name) + _value(scalar[f.name]) for f in sorted(kind, key=lambda f: f.name)]
        return b"d" + struct.pack("<Q", len(parts)) + b"".join(parts)
    if kinds.is_floating(kind):
        number = np.asarray(scalar.as_py(), kind.to_pandas_dtype())
        return b"f" + bytes([number.itemsize]) + number.tobytes()
    value = scalar.as_py()
    if isinstance(value, bool):
        return b"b\x01" if value else b"b\x00"
    if isinstance(value, int):
        return b"i" + struct.pack("<q", value) if value < 2**63 else b"u" + struct.pack("<Q", value)
    if isinstance(value, str):
        return b"s" + _text(value)
    if isinstance(value, bytes):
        return b"y" + struct.pack("<Q", len(value)) + value
    raise TransferSetError(f"values of Arrow type {kind} cannot be hashed; leave the column out or cast it")


def _text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data
