"""Content hashes: they identify a sample's content, independent of how it was stored (docs/format.md, section 3).

A row's encoding depends on its own value and its column's type, never on other rows.
"""

from __future__ import annotations

import hashlib
import struct
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.types as kinds

from softcache.arrays import Array
from softcache.errors import TransferSetError


def hash_rows(table: pa.Table, rows: int) -> Array:
    """Return the content hash of each row of a table, uint8 [rows, 32]. It covers all columns, ordered by name.

    `rows` is the number of rows, since a table of no columns has none. Raises TransferSetError, which names the column,
    if a column's type has no encoding.
    """
    digests = [hashlib.sha256() for _ in range(rows)]
    for name in sorted(table.column_names):
        head = text(name)
        try:
            values = _encode(table[name].combine_chunks())
        except (TransferSetError, pa.ArrowException) as e:
            raise TransferSetError(f"column {name}: {e}") from e
        for digest, value in zip(digests, values, strict=True):
            digest.update(head)
            digest.update(value)
    joined = b"".join(d.digest() for d in digests)
    return np.frombuffer(joined, np.uint8).reshape(rows, 32).copy()


def fixed_numbers(array: pa.Array) -> Array | None:
    """Return a column of numbers, or of (nested) fixed-size lists of numbers, as one array [rows, ...].

    Return None if the column has another type, or if anything in it is missing.
    """
    shape = _fixed_shape(array.type)
    if shape is None or array.null_count:
        return None
    flat = array
    for _ in shape:
        flat = flat.flatten()
        if flat.null_count:
            return None
    values: Array = flat.to_numpy(zero_copy_only=False)
    return values.reshape(len(array), *shape)


def _fixed_shape(kind: pa.DataType) -> tuple[int, ...] | None:
    """Return the sizes of nested fixed-size lists of numbers, outermost first; () for numbers; None for other types."""
    shape = []
    while kinds.is_fixed_size_list(kind):
        shape.append(kind.list_size)
        kind = kind.value_type
    return tuple(shape) if _is_number(kind) else None


def _is_number(kind: pa.DataType) -> bool:
    return bool(kinds.is_integer(kind) or kinds.is_floating(kind))


def _encode(array: pa.Array) -> list[bytes]:
    """Return the encoding of each row."""
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    kind = array.type
    if kinds.is_dictionary(kind):
        return _encode(array.dictionary_decode())
    if kinds.is_temporal(kind):
        return _encode(array.cast(pa.int32() if kind.bit_width == 32 else pa.int64()))
    if _fixed_shape(kind):
        return _fixed(array)
    if kinds.is_list(kind) or kinds.is_large_list(kind) or kinds.is_fixed_size_list(kind):
        return [b"n" if not v.is_valid else _list(v.values) for v in array]
    if kinds.is_struct(kind):
        return _structs(array)
    if kinds.is_floating(kind):
        return _floats(array)
    return [_scalar(v, kind) for v in array.to_pylist()]


def _fixed(array: pa.Array) -> list[bytes]:
    numbers = fixed_numbers(array)
    if numbers is not None:
        head = array_head(numbers.dtype, numbers.shape[1:])
        return [head + row.tobytes() for row in numbers]
    if len(array) > 1:
        return [_fixed(array.slice(i, 1))[0] for i in range(len(array))]
    return [b"n" if array.null_count else _items(array[0].values)]


def _list(values: pa.Array) -> bytes:
    """Return the encoding of one list."""
    if not _is_number(values.type) or values.null_count:
        return _items(values)
    numbers: Array = values.to_numpy(zero_copy_only=False)
    return array_head(numbers.dtype, numbers.shape) + numbers.tobytes()


def _items(values: pa.Array) -> bytes:
    return b"l" + struct.pack("<Q", len(values)) + b"".join(_encode(values))


def _structs(array: pa.Array) -> list[bytes]:
    children = sorted(zip((f.name for f in array.type), array.flatten(), strict=True), key=lambda pair: pair[0])
    names, fields = [name for name, _ in children], [_encode(child) for _, child in children]
    head = b"d" + struct.pack("<Q", len(names))
    rows = []
    for i, valid in enumerate(array.is_valid().to_pylist()):
        parts = (text(name) + values[i] for name, values in zip(names, fields, strict=True))
        rows.append(head + b"".join(parts) if valid else b"n")
    return rows


def _floats(array: pa.Array) -> list[bytes]:
    """Return the encoding of each float: its size and its exact bits, NaN included."""
    size = array.type.bit_width // 8
    numbers = np.frombuffer(array.buffers()[1], f"<f{size}", len(array), array.offset * size)
    head = b"f" + bytes([numbers.itemsize])
    valid = array.is_valid().to_pylist()
    return [head + number.tobytes() if present else b"n" for number, present in zip(numbers, valid, strict=True)]


def array_head(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """Return the encoding of an array up to its values: its dtype and shape."""
    return b"a" + text(dtype.name) + struct.pack(f"<{len(shape) + 1}Q", len(shape), *shape)


def _scalar(value: Any, kind: pa.DataType) -> bytes:
    if value is None:
        return b"n"
    if isinstance(value, bool):
        return b"b\x01" if value else b"b\x00"
    if isinstance(value, int):
        return b"i" + struct.pack("<q", value) if value < 2**63 else b"u" + struct.pack("<Q", value)
    if isinstance(value, str):
        return b"s" + text(value)
    if isinstance(value, bytes):
        return b"y" + struct.pack("<Q", len(value)) + value
    raise TransferSetError(f"values of Arrow type {kind} cannot be hashed; leave the column out or cast it")


def text(value: str) -> bytes:
    """Return a string's length and UTF-8 bytes: docs/format.md calls this "as a string"."""
    data = value.encode()
    return struct.pack("<Q", len(data)) + data
