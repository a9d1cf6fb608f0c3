"""Columns of a target: numbers, lists, flags and text, gathered by row in one step per batch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import torch

from softcache.arrays import Array
from softcache.read import span as spans
from softcache.read.gather import CHUNK, Window, has_long_runs, ranges
from softcache.read.shard_reader import Runs, ShardReader
from softcache.store.buffers import NUMPY_DTYPES
from softcache.store.checksums import BLOCK_BYTES


class RunCopier:
    """Copies runs of places of several columns of one span at once; each run is one copy of memory.

    Few steps make it fast: a batch is a few runs of a few columns, and after a megabyte has been copied the processor's
    cache holds no code or data for the next step.
    """

    def __init__(self, columns: Sequence[FixedColumn]) -> None:
        windows = [column.window for column in columns]
        self._columns, self._span = columns, windows[0].span
        self._base = np.stack([window.base for window in windows])
        self._steps = np.array([[window.step] for window in windows])

    def take(self, shard: Array, first: Array, places: Array) -> list[torch.Tensor]:
        """Return each column's items as a fresh tensor.

        `shard` is int64 [runs]; `first` and `places` are int64 [runs] or [columns, runs].
        """
        if not places.all():
            first = np.where(places > 0, first, 0)  # an empty run must not touch anything beyond its file
        begin = self._base.take(shard, 1) + first * self._steps
        end = begin + places * self._steps
        with spans.MAPPING_LOCK:
            self._span.touch(begin // BLOCK_BYTES, np.maximum(end - 1, begin) // BLOCK_BYTES, shard)
            data = self._span.bytes
            copied = [
                np.concatenate([data[start:stop] for start, stop in zip(starts, stops, strict=True)])
                for starts, stops in zip(begin.tolist(), end.tolist(), strict=True)
            ]
        return [column.shaped(numbers) for column, numbers in zip(self._columns, copied, strict=True)]


class FixedColumn:
    """A column of `shape` numbers of `dtype` for each row, or for `items` (int64 [shards]) items in each shard."""

    def __init__(
        self, reader: ShardReader, name: str, dtype: str, shape: tuple[int, ...], items: Array | None = None
    ) -> None:
        width = math.prod(shape)
        self._shape = shape
        self.window = Window(reader, name, dtype, dtype, width, width, reader.shards.rows if items is None else items)

    def take(self, shard: Array, local: Array) -> torch.Tensor:
        """Return rows as a fresh tensor [n, *shape] in the stored dtype."""
        return self.shaped(self.window.take(shard, local))

    def take_runs(self, runs: Runs) -> torch.Tensor:
        """Return runs of rows as a fresh tensor [n, *shape]."""
        return RunCopier([self]).take(*runs)[0]

    def shaped(self, data: Array) -> torch.Tensor:
        """Return copied numbers as a tensor [n, *shape]."""
        return torch.from_numpy(data.view(self.window.dtype).reshape(-1, *self._shape))


class Bounds:
    """Where the lists of rows begin and end, for several columns of one span.

    `items` says by column name how many items each shard has (int64 [shards]). A shard has `rows` (int64 [shards])
    lists, by default one for each row of the cache.
    """

    def __init__(self, reader: ShardReader, items: Mapping[str, Array], rows: Array | None = None) -> None:
        self._reader, self._names, self._items = reader, list(items), np.stack(list(items.values()))
        places = reader.shards.rows if rows is None else rows
        windows = [Window(reader, f"{name}.offsets", "int32", "int32", 2, 1, places) for name in items]
        # The windows differ only in where they begin.
        self._window, self._base = windows[0], np.stack([window.base for window in windows])

    def take(self, shard: Array, local: Array) -> tuple[Array, Array]:
        """Return where each row's items begin and how many there are, int64 [columns, n]. Raises FormatError."""
        if len(shard) > CHUNK:
            chunks = range(0, len(shard), CHUNK)
            parts = [self.take(shard[i : i + CHUNK], local[i : i + CHUNK]) for i in chunks]
            return np.concatenate([begin for begin, _ in parts], 1), np.concatenate([n for _, n in parts], 1)
        found = self._window.at(self._base.take(shard, 1) + local * self._window.step, shard).astype(np.int64)
        begin, end = found[:, ::2], found[:, 1::2]
        lengths = end - begin
        # Negative if any of the three is negative.
        bad = begin | lengths | (self._items.take(shard, 1) - end)
        if bad.min(initial=0) < 0:
            raise self._reader.bad(self._names[int((bad < 0).any(1).argmax())], "has offsets outside its data")
        return begin, lengths


class ListColumns:
    """Columns of lists with the same lengths. An item of a column has `shape` numbers of `dtype`."""

    def __init__(self, reader: ShardReader, columns: Sequence[tuple[str, str, tuple[int, ...]]]) -> None:
        name, dtype, shape = columns[0]
        position = reader.shards.column(name)
        if position is None:
            raise reader.bad(name, "is missing")
        items = reader.shards.sizes[:, position] // (NUMPY_DTYPES[dtype].itemsize * math.prod(shape))
        self.items = {name: items}
        self.columns = {name: FixedColumn(reader, name, dtype, shape, items) for name, dtype, shape in columns}
        self._copier = RunCopier(list(self.columns.values()))

    def take(self, runs: Runs) -> dict[str, torch.Tensor]:
        """Return the items of runs, one run after the other, by column."""
        if has_long_runs(runs.rows):
            return dict(zip(self.columns, self._copier.take(*runs), strict=True))
        shards, items = np.repeat(runs.shard, runs.rows), ranges(runs.first, runs.rows)
        return {name: column.take(shards, items) for name, column in self.columns.items()}


class FlagColumn:
    """A column of one flag per row: a bit in Arrow shards, a byte in Zarr shards."""

    def __init__(self, reader: ShardReader, name: str) -> None:
        position = reader.shards.column(name)
        self._packed = position is not None and reader.shards.columns[position][1] == "bit"
        rows = reader.shards.rows
        places = -(-rows // 8) if self._packed else rows
        self._window = Window(reader, name, "bit" if self._packed else "uint8", "uint8", 1, 1, places)

    def take(self, shard: Array, local: Array) -> Array:
        """Return bool [n]."""
        if not self._packed:
            return self._window.take(shard, local).astype(np.bool_)
        octets = self._window.take(shard, local >> 3)
        return (octets >> (local & 7).astype(np.uint8) & 1).astype(np.bool_)


class TextColumn:
    """A column of strings or bytes in Arrow shards. Each shard has `rows` (int64 [shards]) of them."""

    def __init__(self, reader: ShardReader, name: str, rows: Array) -> None:
        self._reader, self._name = reader, name
        shards = reader.shards
        position = shards.column(f"{name}.data")
        if position is None:
            raise reader.bad(name, "has no data")
        self._bounds = Bounds(reader, {name: shards.sizes[:, position]}, rows)
        self._offsets = shards.offsets[:, position]
        self._span = reader.span(shards.columns[position][2])

    def take(self, shard: Array, local: Array) -> tuple[Array, Array]:
        """Return the bytes of all rows, one row after the other (uint8), and where each begins (int64 [n + 1])."""
        if len(shard) > CHUNK:
            chunks = range(0, len(shard), CHUNK)
            parts = [self.take(shard[i : i + CHUNK], local[i : i + CHUNK]) for i in chunks]
            ends = np.cumsum(np.concatenate([[0], *(np.diff(offsets) for _, offsets in parts)]))
            return np.concatenate([data for data, _ in parts]), ends
        (begin,), (lengths,) = self._bounds.take(shard, local)
        first = self._span.starts[shard] + self._offsets[shard] + begin
        last = first + np.maximum(lengths, 1) - 1
        ends = np.concatenate([[0], np.cumsum(lengths)])
        places = np.arange(ends[-1]) + np.repeat(first - ends[:-1], lengths)
        with spans.MAPPING_LOCK:
            end = self._span.last_block(shard)
            self._span.touch(np.minimum(first // BLOCK_BYTES, end), np.minimum(last // BLOCK_BYTES, end), shard)
            return self._span.bytes[places], ends

    def take_strings(self, shard: Array, local: Array) -> pa.Array:
        """Return strings [n]. Raises FormatError if they are not UTF-8."""
        data, ends = self.take(shard, local)
        if ends[-1] >= 2**31:
            raise self._reader.bad(self._name, "is too long to read in one batch of 2 GiB")
        buffers = [None, pa.py_buffer(ends.astype(np.int32)), pa.py_buffer(np.ascontiguousarray(data))]
        strings = pa.Array.from_buffers(pa.string(), len(shard), buffers)
        try:
            strings.validate(full=True)
        except pa.ArrowInvalid as e:
            raise self._reader.bad(self._name, f"is not UTF-8: {e}") from e
        return strings
