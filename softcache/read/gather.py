"""Columns of a target, gathered by row number in one step per batch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from softcache.errors import FormatError
from softcache.read import span as spans
from softcache.read.span import Span
from softcache.store.buffers import NUMPY_DTYPES
from softcache.store.checksums import BLOCK_BYTES
from softcache.store.files import Files
from softcache.store.manifest import TargetShards

Array = np.ndarray[Any, Any]
_CHUNK = 16_384
_LONG_RUN = 16  # items from which on a copy of its own costs less than an index for each item


class Runs(NamedTuple):
    """Runs of rows, or of items: the shard, the first row within it, and how many, int64 [runs]."""

    shard: Array
    first: Array
    rows: Array


class ShardReader:
    """The columns of one target's shards. Each file of a shard has one span, made when a column in it is first read."""

    def __init__(self, files: Files, shards: TargetShards, *, check: bool = True) -> None:
        self.shards = shards
        first_row, rows = shards.first_row, shards.rows
        has_gaps = first_row[0] != 0 or (first_row[1:] != first_row[:-1] + rows[:-1]).any()
        self._end = None if has_gaps else shards.end
        is_even = not has_gaps and (rows[:-1] == rows[0]).all() and rows[-1] <= rows[0]
        self._rows_each = int(rows[0]) if is_even else None
        self._files, self._check = files, check
        self._spans: dict[int, Span] = {}

    def locate(self, rows: Array) -> tuple[Array, Array, Array | None]:
        """Return the shard and the row within it of each row number (int64 [n]).

        The third says whether the target covers each row, bool [n]; None if it covers all of them.
        """
        first_row = self.shards.first_row
        if self._end is not None and len(rows) and rows.view(np.uint64).max() < self._end:
            each = self._rows_each
            shard = first_row.searchsorted(rows, side="right") - 1 if each is None else rows // each
            return shard, rows - first_row[shard], None
        shard = first_row.searchsorted(rows, side="right") - 1
        local = rows - first_row[shard]
        covered = (shard >= 0) & (local < self.shards.rows[shard])
        return shard, local, covered

    def runs(self, begin: int, end: int) -> Runs | None:
        """Return rows [begin, end) as runs, None if the target has gaps."""
        if self._end is None:
            return None
        first_row, rows = self.shards.first_row, self.shards.rows
        low = int(first_row.searchsorted(begin, side="right")) - 1
        shard = np.arange(low, max(int(first_row.searchsorted(end)), low))
        first = np.maximum(begin - first_row[shard], 0)
        return Runs(shard, first, np.minimum(first_row[shard] + rows[shard], end) - first_row[shard] - first)

    def span(self, file: int) -> Span:
        """Return the span of a file of every shard."""
        if file not in self._spans:
            self._spans[file] = Span(self._files, self.shards, file, check=self._check)
        return self._spans[file]

    def bad(self, column: str, why: str) -> FormatError:
        """Return the error for a column that is not as it should be."""
        return FormatError(f"{self._files.url}: target {self.shards.target}: column {column} {why}")


class Window:
    """`width` consecutive numbers from any place of a buffer, for many places of many shards at once.

    The span is seen as an array with one item of `width` numbers at every byte, so that one index gathers a batch, and
    each item is one copy of memory. numpy copies in the calling thread: torch's threads would wait for each other
    wherever data loaders keep the cores busy. Place p of a shard begins at number `p * stride` of its buffer.
    """

    def __init__(
        self, reader: ShardReader, name: str, stored: str, dtype: str, width: int, stride: int, places: Array
    ) -> None:
        """Open the buffer `name`, listed as `stored`, as numbers of `dtype`.

        `places` int64 [shards] exist in each shard.
        """
        shards = reader.shards
        position = shards.column(name)
        if position is None or shards.columns[position][1] != stored:
            raise reader.bad(name, f"is not there as {stored}")
        self.dtype = NUMPY_DTYPES[dtype]
        self.step, self._size = stride * self.dtype.itemsize, width * self.dtype.itemsize
        if (shards.sizes[:, position] < (places - 1).astype(np.float64) * self.step + self._size).any():
            raise reader.bad(name, f"is smaller than its rows' {width} {dtype} each")
        self.span = reader.span(shards.columns[position][2])
        self.base = self.span.starts + shards.offsets[:, position]
        items = max(len(self.span.bytes) - self._size + 1, 0)
        # An item may reach this far beyond the block where it begins.
        self._reach = -(-(self._size - 1) // BLOCK_BYTES)
        self._is_ready, self._evictions = np.zeros(len(self.span.bytes) // BLOCK_BYTES, np.bool_), 0
        self._items: Array = np.ndarray((items,), np.dtype((np.void, self._size)), self.span.bytes, strides=(1,))

    def take(self, shard: Array, place: Array) -> Array:
        """Return a fresh array [n * width]; `shard` and `place` are int64 [n]."""
        if len(shard) > _CHUNK:
            chunks = range(0, len(shard), _CHUNK)
            return np.concatenate([self.take(shard[i : i + _CHUNK], place[i : i + _CHUNK]) for i in chunks])
        return self.at(self.base[shard] + place * self.step, shard)

    def at(self, begin: Array, shard: Array) -> Array:
        """Return a fresh array [..., n * width] of what begins at bytes of the span, int64 [..., n], of shards [n]."""
        with spans.MAPPING_LOCK:
            self._make_ready(begin // BLOCK_BYTES, shard)
            items = self._items[begin]
        numbers: Array = items.view(self.dtype)
        return numbers

    def _make_ready(self, block: Array, shard: Array) -> None:
        """Make the items readable that begin in blocks, int64 [..., n], of shards, int64 [n] or [1]."""
        if self._evictions != self.span.evictions:
            self._is_ready[:], self._evictions = False, self.span.evictions
        if not self._is_ready[block].all():
            self.span.touch(block, np.minimum(block + self._reach, self.span.last_block(shard)), shard)
            self._is_ready[block] = True


class RunCopier:
    """Copies runs of places of several columns, all of one span, at once; each run is one copy of memory.

    What matters for speed is the number of steps: a batch is a few runs of each of a few columns, and once a megabyte
    has been copied the processor's cache holds nothing of what comes next.
    """

    def __init__(self, columns: Sequence[FixedColumn]) -> None:
        windows = [column.window for column in columns]
        self._columns, self._span = columns, windows[0].span
        self._base = np.stack([window.base for window in windows])
        self._steps = np.array([[window.step] for window in windows])

    def take(self, shard: Array, first: Array, places: Array) -> list[torch.Tensor]:
        """Return each column's items as a fresh tensor; `shard` is int64 [runs], others [runs] or [columns, runs]."""
        if not places.all():
            first = np.where(places > 0, first, 0)  # where nothing is copied nothing beyond a file is touched
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
    """A column of `shape` numbers of `dtype` per row, or of `items` (int64 [shards]) items in each shard."""

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
        """Return what has been copied of rows as a tensor [n, *shape]."""
        return torch.from_numpy(data.view(self.window.dtype).reshape(-1, *self._shape))


class Bounds:
    """Where the items of rows' lists, or their bytes, begin and end, in several columns of one span.

    Of each column, by name, `items` (int64 [shards]) are in a shard. Shards have `rows` (int64 [shards]) lists, by
    default one for each row of the cache.
    """

    def __init__(self, reader: ShardReader, items: Mapping[str, Array], rows: Array | None = None) -> None:
        self._reader, self._names, self._items = reader, list(items), np.stack(list(items.values()))
        places = reader.shards.rows if rows is None else rows
        windows = [Window(reader, f"{name}.offsets", "int32", "int32", 2, 1, places) for name in items]
        # They differ in where they begin alone.
        self._window, self._base = windows[0], np.stack([window.base for window in windows])

    def take(self, shard: Array, local: Array) -> tuple[Array, Array]:
        """Return where each row's items begin, and how many they are, int64 [columns, n]. Raises FormatError."""
        if len(shard) > _CHUNK:
            chunks = range(0, len(shard), _CHUNK)
            parts = [self.take(shard[i : i + _CHUNK], local[i : i + _CHUNK]) for i in chunks]
            return np.concatenate([begin for begin, _ in parts], 1), np.concatenate([n for _, n in parts], 1)
        found = self._window.at(self._base.take(shard, 1) + local * self._window.step, shard).astype(np.int64)
        begin, end = found[:, ::2], found[:, 1::2]
        lengths = end - begin
        # Any of the three that is negative makes this negative.
        bad = begin | lengths | (self._items.take(shard, 1) - end)
        if bad.min(initial=0) < 0:
            raise self._reader.bad(self._names[int((bad < 0).any(1).argmax())], "has offsets outside its data")
        return begin, lengths


class ListColumns:
    """Columns of lists that begin and end alike, each item of a column `shape` numbers of `dtype`."""

    def __init__(self, reader: ShardReader, columns: Sequence[tuple[str, str, tuple[int, ...]]]) -> None:
        name, dtype, shape = columns[0]
        position = reader.shards.column(name)
        if position is None:
            raise reader.bad(name, "is not there")
        items = reader.shards.sizes[:, position] // (NUMPY_DTYPES[dtype].itemsize * math.prod(shape))
        self.items = {name: items}
        self.columns = {name: FixedColumn(reader, name, dtype, shape, items) for name, dtype, shape in columns}
        self._copier = RunCopier(list(self.columns.values()))

    def take(self, runs: Runs) -> dict[str, torch.Tensor]:
        """Return runs of items, all one after the other, by column."""
        if has_long_runs(runs.rows):
            return dict(zip(self.columns, self._copier.take(*runs), strict=True))
        shards, items = np.repeat(runs.shard, runs.rows), ranges(runs.first, runs.rows)
        return {name: column.take(shards, items) for name, column in self.columns.items()}


def has_long_runs(rows: Array) -> bool:
    """Whether copies of runs, which have `rows` (int64 [runs]) each, cost less than an index for each row."""
    return 0 < len(rows) * _LONG_RUN <= int(rows.sum())


def ranges(begin: Array, lengths: Array) -> Array:
    """Return the numbers of ranges, each from its `begin` on (int64 [n]), one after the other."""
    ends = lengths.cumsum()
    numbers: Array = np.repeat(begin - (ends - lengths), lengths)
    numbers += np.arange(len(numbers))
    return numbers


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
    """A column of strings or bytes of Arrow shards that have `rows` (int64 [shards])."""

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
        """Return the rows' bytes one after the other (uint8) and their offsets into them (int64 [n + 1])."""
        if len(shard) > _CHUNK:
            chunks = range(0, len(shard), _CHUNK)
            parts = [self.take(shard[i : i + _CHUNK], local[i : i + _CHUNK]) for i in chunks]
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
