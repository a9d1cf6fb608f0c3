"""The gather: numbers from many places of many shards in one step."""

from __future__ import annotations

import numpy as np

from softcache.arrays import Array
from softcache.read import span as spans
from softcache.read.shard_reader import ShardReader
from softcache.store.buffers import NUMPY_DTYPES
from softcache.store.checksums import BLOCK_BYTES

CHUNK = 16_384
_LONG_RUN = 16  # items; a longer run is cheaper to copy on its own than to index item by item


class Window:
    """`width` consecutive numbers from any place of a buffer, for many places of many shards at once.

    The span is seen as an array with an item of `width` numbers at every byte, so that one index gathers a batch and
    each item is one copy of memory. numpy copies in the calling thread: torch's threads would wait for each other
    while data loaders keep the cores busy. Place p of a shard begins at number `p * stride` of its buffer.
    """

    def __init__(
        self, reader: ShardReader, name: str, stored: str, dtype: str, width: int, stride: int, places: Array
    ) -> None:
        """Open the buffer `name`, which the manifest lists as `stored`, as numbers of `dtype`.

        `places`, int64 [shards], is how many places each shard has. Raises FormatError if the buffer is too small.
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
        if len(shard) > CHUNK:
            chunks = range(0, len(shard), CHUNK)
            return np.concatenate([self.take(shard[i : i + CHUNK], place[i : i + CHUNK]) for i in chunks])
        return self.at(self.base[shard] + place * self.step, shard)

    def at(self, begin: Array, shard: Array) -> Array:
        """Return a fresh array [..., n * width] of the numbers at bytes `begin`, int64 [..., n], of shards [n]."""
        with spans.MAPPING_LOCK:
            self._make_ready(begin // BLOCK_BYTES, shard)
            items = self._items[begin]
        numbers: Array = items.view(self.dtype)
        return numbers

    def _make_ready(self, block: Array, shard: Array) -> None:
        """Map and check the blocks, int64 [..., n], of shards, int64 [n] or [1], in which items begin."""
        if self._evictions != self.span.evictions:
            self._is_ready[:], self._evictions = False, self.span.evictions
        if not self._is_ready[block].all():
            self.span.touch(block, np.minimum(block + self._reach, self.span.last_block(shard)), shard)
            self._is_ready[block] = True


def has_long_runs(rows: Array) -> bool:
    """Whether copying runs of `rows` (int64 [runs]) each is cheaper than an index for each row."""
    return 0 < len(rows) * _LONG_RUN <= int(rows.sum())


def ranges(begin: Array, lengths: Array) -> Array:
    """Return the numbers begin, begin + 1, ... of each range (int64 [n] each), one range after the other."""
    ends = lengths.cumsum()
    numbers: Array = np.repeat(begin - (ends - lengths), lengths)
    numbers += np.arange(len(numbers))
    return numbers
