"""Columns of a target, gathered by row number in one step per batch."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from softcache.errors import FormatError
from softcache.read import span as spans
from softcache.read.span import Span
from softcache.store.buffers import NUMPY_DTYPES
from softcache.store.files import Files
from softcache.store.manifest import TargetShards

Array = np.ndarray[Any, Any]
_CHUNK = 16_384
_TORCH = {
    "uint8": torch.uint8,
    "uint16": torch.uint16,
    "int32": torch.int32,
    "int64": torch.int64,
    "float16": torch.float16,
    "float32": torch.float32,
}


class ShardReader:
    """The columns of one target's shards. Each file of a shard has one span, made when a column in it is first read."""

    def __init__(self, files: Files, shards: TargetShards, *, check: bool = True) -> None:
        self.shards = shards
        self._files, self._check = files, check
        self._spans: dict[int, Span] = {}

    def locate(self, rows: Array) -> tuple[Array, Array, Array]:
        """Return the shard and the row within it of each row number (int64 [n]), and whether the target covers it."""
        shard = self.shards.first_row.searchsorted(rows, side="right") - 1
        local = rows - self.shards.first_row[shard]
        return shard, local, (shard >= 0) & (local < self.shards.rows[shard])

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

    The span is seen through a window that starts at every one of its numbers, so that one `index_select` gathers a
    batch. Place p of a shard begins at number `p * stride` of its buffer.
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
        itemsize = NUMPY_DTYPES[dtype].itemsize
        self._offsets = shards.offsets[:, position]
        needed = ((places - 1).astype(np.float64) * stride + width) * itemsize
        if (shards.sizes[:, position] < needed).any():
            raise reader.bad(name, f"is smaller than its rows' {width} {dtype} each")
        self.span = reader.span(shards.columns[position][2])
        base = self.span.starts + self._offsets
        if (base % itemsize).any():
            raise reader.bad(name, f"is not aligned to {dtype}")
        self._base, self._itemsize, self._width, self._stride = base // itemsize, itemsize, width, stride
        whole = len(self.span.bytes) // itemsize * itemsize
        numbers = torch.from_numpy(self.span.bytes[:whole]).view(_TORCH[dtype])
        self._window = numbers.as_strided((max(len(numbers) - width + 1, 0), width), (1, 1))

    def take(self, shard: Array, place: Array) -> torch.Tensor:
        """Return a fresh tensor [n, width]; `shard` and `place` are int64 [n]."""
        if len(shard) > _CHUNK:
            chunks = range(0, len(shard), _CHUNK)
            return torch.cat([self.take(shard[i : i + _CHUNK], place[i : i + _CHUNK]) for i in chunks])
        number = place * self._stride
        with spans.MAPPING_LOCK:
            if not self.span.ready:
                begin = self._offsets[shard] + number * self._itemsize
                self.span.touch(shard, begin, begin + self._width * self._itemsize)
            return self._window.index_select(0, torch.from_numpy(self._base[shard] + number))


class FixedColumn:
    """A column of `shape` numbers of `dtype` per row."""

    def __init__(self, reader: ShardReader, name: str, dtype: str, shape: tuple[int, ...]) -> None:
        width = math.prod(shape)
        self._shape = shape
        self._window = Window(reader, name, dtype, dtype, width, width, reader.shards.rows)

    def take(self, shard: Array, local: Array) -> torch.Tensor:
        """Return rows as a fresh tensor [n, *shape] in the stored dtype."""
        return self._window.take(shard, local).view(-1, *self._shape)


class FlagColumn:
    """A column of one flag per row: a bit in Arrow shards, a byte in Zarr shards."""

    def __init__(self, reader: ShardReader, name: str) -> None:
        position = reader.shards.column(name)
        self._packed = position is not None and reader.shards.columns[position][1] == "bit"
        rows = reader.shards.rows
        places = -(-rows // 8) if self._packed else rows
        self._window = Window(reader, name, "bit" if self._packed else "uint8", "uint8", 1, 1, places)

    def take(self, shard: Array, local: Array) -> torch.Tensor:
        """Return bool [n]."""
        if not self._packed:
            return self._window.take(shard, local)[:, 0].bool()
        octets = self._window.take(shard, local >> 3)[:, 0]
        return (octets >> torch.from_numpy((local & 7).astype(np.uint8)) & 1).bool()


class TextColumn:
    """A column of strings or bytes of an Arrow shard."""

    def __init__(self, reader: ShardReader, name: str) -> None:
        self._reader, self._name = reader, name
        shards = reader.shards
        self._bounds = Window(reader, f"{name}.offsets", "int32", "int32", 2, 1, shards.rows)
        position = shards.column(f"{name}.data")
        if position is None:
            raise reader.bad(name, "has no data")
        self._offsets, self._sizes = shards.offsets[:, position], shards.sizes[:, position]
        self._span = reader.span(shards.columns[position][2])

    def take(self, shard: Array, local: Array) -> tuple[Array, Array]:
        """Return the rows' bytes one after the other (uint8) and their offsets into them (int64 [n + 1])."""
        if len(shard) > _CHUNK:
            chunks = range(0, len(shard), _CHUNK)
            parts = [self.take(shard[i : i + _CHUNK], local[i : i + _CHUNK]) for i in chunks]
            ends = np.cumsum(np.concatenate([[0], *(np.diff(offsets) for _, offsets in parts)]))
            return np.concatenate([data for data, _ in parts]), ends
        bounds = self._bounds.take(shard, local).numpy().astype(np.int64)
        begin, lengths = bounds[:, 0], bounds[:, 1] - bounds[:, 0]
        if (begin < 0).any() or (lengths < 0).any() or (bounds[:, 1] > self._sizes[shard]).any():
            raise self._reader.bad(self._name, "has offsets outside its data")
        within = self._offsets[shard] + begin
        ends = np.concatenate([[0], np.cumsum(lengths)])
        places = np.arange(ends[-1]) + np.repeat(self._span.starts[shard] + within - ends[:-1], lengths)
        with spans.MAPPING_LOCK:
            self._span.touch(shard, within, within + lengths)
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
