"""Arrow shards and tables: IPC streams of one record batch (docs/format.md, sections 1 and 4.1)."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa

from softcache.arrays import Array
from softcache.errors import FormatError
from softcache.store.buffers import Buffer, ListColumn
from softcache.store.ipc import aligned, is_compressed

_DTYPES = {
    pa.uint8(): "uint8",
    pa.uint16(): "uint16",
    pa.int32(): "int32",
    pa.int64(): "int64",
    pa.float16(): "float16",
    pa.float32(): "float32",
    pa.bool_(): "bit",
}


def encode(
    values: Mapping[str, Array | ListColumn],
    valid: Array,
    sample_ids: pa.Array,
    views: Array,
    metadata: Mapping[str, str],
) -> tuple[memoryview, tuple[Buffer, ...]]:
    """Return a shard's bytes, and where its columns lie in them.

    Takes the arguments of `store.shards.write_shard`, and the schema metadata.
    """
    arrays = {name: column_array(column) for name, column in values.items()}
    arrays |= {"valid": pa.array(valid), "sample_id": sample_ids, "view": pa.array(views, pa.int32())}
    data = dump(arrays, metadata)
    return data, locate(data)


def column_array(values: Array | ListColumn) -> pa.Array:
    """Return `values` [rows, ...] as an Arrow array with one entry per row.

    An entry is a number if a row has one, otherwise a fixed-size list of the row's numbers, flattened. For a column of
    lists, it is a list of such entries.
    """
    if isinstance(values, ListColumn):
        items = column_array(values.values)
        kind = pa.list_(pa.field("item", items.type, nullable=False))
        return pa.ListArray.from_arrays(pa.array(values.offsets, pa.int32()), items, type=kind)
    if values.ndim == 1:
        return pa.array(values)
    size = math.prod(values.shape[1:])
    item = pa.field("item", pa.from_numpy_dtype(values.dtype), nullable=False)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), type=pa.list_(item, size))


def dump(
    arrays: Mapping[str, pa.Array], metadata: Mapping[str, str] | Mapping[bytes, bytes] | None = None
) -> memoryview:
    """Return columns, which have no nulls, as the bytes of a stream of one record batch."""
    fields = [pa.field(name, array.type, nullable=False) for name, array in arrays.items()]
    schema = pa.schema(fields, metadata=dict(metadata or {}) or None)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(list(arrays.values()), schema=schema))
    return aligned(sink.getvalue())


def null_count(array: pa.Array) -> int:
    """Return the number of nulls in an array, at all levels together."""
    kind, count = array.type, int(array.null_count)
    if pa.types.is_struct(kind):
        return count + sum(map(null_count, array.flatten()))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return count + null_count(array.flatten())
    return count


def load(data: bytes | pa.Buffer, path: str) -> pa.RecordBatch:
    """Return the one record batch of a stream, without copying. Raises FormatError, which names `path`.

    Call this only on bytes whose checksum has been compared: validation does not prove that values are those written.
    """
    try:
        messages = list(pa.ipc.MessageReader.open_stream(data))
        if [m.type for m in messages] != ["schema", "record batch"]:
            raise FormatError(
                f"{path}: holds {[m.type for m in messages]}; a softcache file has a schema and one record batch"
            )
        if is_compressed(messages[1].metadata.to_pybytes()):
            raise FormatError(f"{path}: the record batch is compressed; softcache files never are")
        with pa.ipc.open_stream(data) as stream:
            batch = stream.read_next_batch()
        batch.validate(full=True)
        names = set(batch.schema.names)
        check_metadata(batch.schema, path)
    except (pa.ArrowException, OSError, struct.error, UnicodeDecodeError) as e:
        raise FormatError(f"{path}: not a readable Arrow stream: {e}") from e
    if len(names) != batch.num_columns:
        raise FormatError(f"{path}: two columns of one name")
    if any(map(null_count, batch.columns)):
        raise FormatError(f"{path}: contains nulls; softcache files have none")
    return batch


def check_metadata(schema: pa.Schema, path: str) -> None:
    """Raise FormatError if a file has schema metadata that is not softcache's.

    Other programs act on theirs: `datasets`, for one, opens the files and URLs that it finds in columns which its own
    metadata declares to be images.
    """
    strange = [key for key in schema.metadata or {} if not key.startswith(b"softcache")]
    if strange:
        raise FormatError(f"{path}: it has schema metadata that softcache does not write: {strange[0]!r:.100}")


def locate(data: bytes | memoryview) -> tuple[Buffer, ...]:
    """Return where the columns of numbers, lists of numbers, strings and bytes lie in a stream's bytes."""
    whole = pa.py_buffer(data)
    batch = load(whole, "shard")
    return tuple(
        b for name, column in zip(batch.schema.names, batch.columns, strict=True) for b in _of(whole, name, column)
    )


def _of(whole: pa.Buffer, name: str, column: pa.Array) -> Iterator[Buffer]:
    """Yield the buffers of a column; yield none if the column has any other type."""
    if pa.types.is_string(column.type) or pa.types.is_binary(column.type):
        _, offsets, content = column.buffers()
        yield _buffer(whole, f"{name}.offsets", "int32", offsets, 4 * (len(column) + 1))
        yield _buffer(whole, f"{name}.data", "bytes", content, None)
        return
    items = column.values if pa.types.is_list(column.type) else column
    numbers = items.values if pa.types.is_fixed_size_list(items.type) else items
    if numbers.type not in _DTYPES:
        return
    if items is not column:
        yield _buffer(whole, f"{name}.offsets", "int32", column.buffers()[1], 4 * (len(column) + 1))
    dtype = _DTYPES[numbers.type]
    size = -(-len(numbers) // 8) if dtype == "bit" else len(numbers) * numbers.type.byte_width
    yield _buffer(whole, name, dtype, numbers.buffers()[1], size)


def _buffer(whole: pa.Buffer, name: str, dtype: str, buffer: pa.Buffer | None, size: int | None) -> Buffer:
    if buffer is None or len(buffer) == 0:
        return Buffer(name=name, dtype=dtype, file=0, offset=0, bytes=0)
    offset, size = buffer.address - whole.address, len(buffer) if size is None else size
    return Buffer(name=name, dtype=dtype, file=0, offset=offset, bytes=size)


def numbers(array: pa.Array) -> Array:
    """Return an array of integers without nulls as numpy, not copied.

    `to_numpy` would import pandas, which takes a fifth of a second.
    """
    dtype = np.dtype(str(array.type))
    if not len(array):
        return np.empty(0, dtype)
    return np.frombuffer(array.buffers()[1], dtype, len(array), array.offset * dtype.itemsize)


def list_array(values: pa.Array, lengths: Sequence[int], item: pa.DataType) -> pa.Array:
    """Return `values` cut into large lists of the given lengths, whose items are not nullable."""
    offsets = pa.array(np.concatenate([[0], np.cumsum(np.asarray(lengths, np.int64))]).astype(np.int64))
    return pa.LargeListArray.from_arrays(offsets, values, type=pa.large_list(pa.field("item", item, nullable=False)))
