"""What a shard stores against what its target declares: columns, and values that no encoder writes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import pyarrow as pa
import torch

from softcache.arrays import Array
from softcache.codecs import Codec
from softcache.codecs.columns import STORED_DTYPES, missing_columns
from softcache.codecs.faults import part_faults
from softcache.read.target import Target
from softcache.store import arrow
from softcache.store.buffers import ListColumn
from softcache.store.live_shards import LiveShard

_VIEWS = pa.int32()


def check_columns(target: Target, batch: pa.RecordBatch, id_type: pa.DataType) -> Iterator[str]:
    """Yield how the columns of an Arrow shard differ from those that its target declares."""
    expected = {name: arrow.column_array(empty).type for name, empty in _empty_columns(target).items()}
    expected |= {"valid": pa.bool_(), "sample_id": id_type, "view": _VIEWS}
    yield from different_columns(batch.schema, expected)


def different_columns(schema: pa.Schema, expected: Mapping[str, pa.DataType]) -> Iterator[str]:
    """Yield how the columns of a shard differ from the expected ones: names and their order, types, nullability."""
    found = {field.name: field.type for field in schema}
    if list(found) != list(expected):
        yield f"its columns are {', '.join(found)}; expected {', '.join(expected)}"
    elif found != expected:
        wrong = [f"{n} is {found[n]}, expected {kind}" for n, kind in expected.items() if found[n] != kind]
        yield f"its columns have other types than declared: {'; '.join(wrong)}"
    elif any(field.nullable for field in schema):
        yield "its columns may have nulls"


def check_stored(target: Target, live: LiveShard, batch: pa.RecordBatch | None) -> Iterator[str]:
    """Yield what is stored in a shard that no encoder writes. `batch` is its content if it is an Arrow shard."""
    rows = np.arange(live.first_row, live.first_row + live.shard.rows)
    valid, codec = target.read_valid(rows), target.codec
    if target.task.is_list:
        assert batch is not None, "lists are stored in Arrow shards"
        lengths = np.diff(arrow.numbers(batch[codec.columns[0].name].offsets))
        if lengths[~valid].any():
            yield "rows without an answer have positions"
        columns = {column.name: _items(batch[column.name], column.shape) for column in codec.columns}
        answered = np.repeat(valid, lengths)
    else:
        columns, answered = target.read_columns(rows), valid
        missing = missing_columns(codec.columns, 1)
        for name, column in columns.items():
            if not _same_bits(column[~valid], missing[name].numpy()):
                yield f"rows without an answer do not hold the missing value of {name}"
    stored = {name: torch.from_numpy(column[answered]) for name, column in columns.items()}
    for part in target.task.stored_parts:
        for item, reason in list(part_faults(stored[part.name], part).items())[:1]:
            yield f"{reason}, in item {item} of those with an answer"
    yield from _contradictions(codec, stored)


def _contradictions(codec: Codec, stored: Mapping[str, torch.Tensor]) -> Iterator[str]:
    names = [column.name for column in codec.value_columns]
    _, items = codec.decoder.per_item({name: stored[name] for name in names})
    for reason, where in codec.item.contradictions(items).items():
        if bool(where.any()):
            first = int(where.nonzero()[0, 0])
            yield f"{reason}, in {int(where.sum()):,} items, the first is item {first} of those with an answer"


def _empty_columns(target: Target) -> dict[str, Array | ListColumn]:
    """Return a target's columns without rows."""
    found: dict[str, Array | ListColumn] = {}
    for column in target.codec.columns:
        items = torch.empty((0, *column.shape), dtype=STORED_DTYPES[column.dtype]).numpy()
        found[column.name] = ListColumn(items, np.zeros(1, np.int32)) if target.task.is_list else items
    if target.task.traits.has_tokens:
        for name in ("input_ids", "positions"):
            found[name] = ListColumn(np.empty(0, np.int32), np.zeros(1, np.int32))
    return found


def _items(column: pa.Array, shape: tuple[int, ...]) -> Array:
    """Return the items of a column of lists, [items, *shape]."""
    items = column.flatten()
    numbers = items.flatten() if shape else items
    found: Array = numbers.to_numpy(zero_copy_only=False).reshape(len(items), *shape).copy()
    return found


def _same_bits(rows: Array, missing: Array) -> bool:
    """Whether all rows equal one, bit for bit."""
    kind = np.dtype(f"u{missing.dtype.itemsize}")
    return bool((rows.view(kind) == missing.view(kind)).all())
