"""The index: sorted segments of (key, row), for lookups (docs/format.md, section 8)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from softcache.arrays import Array
from softcache.errors import FormatError, IntegrityError
from softcache.store import arrow
from softcache.store.checksums import BLOCK_BYTES, BlockChecks, crc32c
from softcache.store.shards import CheckedFile

MAX_SEGMENTS = 8
_ENTRY_BYTES = 16


class Segment:
    """One sorted segment of n entries.

    `keys` is int64 (ids) or uint64 (hashes of strings) [n], `rows` is int64 [n]; both share the memory of `data`. A
    search does not check the keys that it passes; `take` checks the blocks of the entries that it returns, once per
    process.
    """

    def __init__(self, data: bytes | pa.Buffer, key_type: pa.DataType, blocks: Sequence[int], where: str) -> None:
        """Open a segment; `blocks` are its block checksums, `where` names it in errors. Raises FormatError."""
        whole = pa.py_buffer(data)
        batch = arrow.load(whole, where)
        if batch.schema.names != ["key", "row"] or batch.schema.types != [key_type, pa.int64()] or not batch.num_rows:
            raise FormatError(f"{where}: not an index segment of {key_type} keys")
        if len(blocks) != -(-len(whole) // BLOCK_BYTES):
            raise FormatError(f"{where}: {len(blocks)} block checksums for {len(whole):,} bytes")
        self.keys: Array = arrow.numbers(batch["key"])
        self.rows: Array = arrow.numbers(batch["row"])
        self._first, self._last_place = self.keys[0], np.uint64(len(self.keys) - 1)
        self.data, self._blocks, self._where = np.frombuffer(whole, np.uint8), blocks, where
        self._offsets = [batch[name].buffers()[1].address - whole.address for name in ("key", "row")]
        # Arrow copies columns that are not aligned as it wants; the copies would not be the bytes that checksums cover.
        if any(not 0 <= offset <= len(whole) - 8 * len(self.keys) for offset in self._offsets):
            raise FormatError(f"{where}: its columns are not laid out as Arrow writes them")
        self._checks, self._is_checked = BlockChecks(len(blocks)), False

    def take(self, places: Array) -> tuple[Array, Array]:
        """Return the keys and rows [n] at `places`, int64 [n]. Raises IntegrityError if their blocks have changed."""
        if not self._is_checked:
            for offset in self._offsets:
                blocks = (offset + 8 * places) // BLOCK_BYTES
                self._checks.touch(blocks, blocks, self._check_block)
            self._is_checked = bool(self._checks.done.all())
        return self.keys[places], self.rows[places]

    def fill_in(self, keys: Array, rows: Array) -> None:
        """Fill in the rows of those `keys` that lie where they would if the ids had no gaps; leave the others.

        Both are int64 [n]; `rows` is changed in place.
        """
        places = np.minimum((keys - self._first).view(np.uint64), self._last_place).view(np.int64)
        there, found = self.take(places)
        np.copyto(rows, found, where=there == keys)

    def _check_block(self, block: int) -> None:
        if crc32c(self.data[block * BLOCK_BYTES : (block + 1) * BLOCK_BYTES]) != self._blocks[block]:
            raise IntegrityError(f"{self._where}: block {block} is not what was written; restore the file")


def dump_segment(keys: Array, rows: Array) -> memoryview:
    """Return the bytes of a segment's file, its entries sorted by key and then by row."""
    if not (keys[1:] > keys[:-1]).all():
        order = np.lexsort((rows, keys))
        keys, rows = keys[order], rows[order]
    return arrow.dump({"key": pa.array(keys), "row": pa.array(rows, pa.int64())})


def segments_to_merge(segments: Sequence[CheckedFile], entries: int) -> int:
    """Return how many of the last segments a new one of so many entries should take in.

    It takes in those that are at most twice as large as what it has by then, so that an entry is written again only as
    often as the index doubles; and further ones until `MAX_SEGMENTS` are left, since a lookup searches them all.
    """
    size, count = _ENTRY_BYTES * entries, 0
    for segment in reversed(segments):
        if segment.bytes > 2 * size and len(segments) - count < MAX_SEGMENTS:
            break
        size, count = size + segment.bytes, count + 1
    return count


def merge(segments: Sequence[Segment]) -> tuple[Array, Array]:
    """Return the keys and rows of several segments, one segment after the other, not sorted."""
    return np.concatenate([s.keys for s in segments]), np.concatenate([s.rows for s in segments])


def candidates(segments: Sequence[Segment], keys: Array) -> Iterator[tuple[Array, Array]]:
    """Yield the rows of each key's entries, as (positions in `keys`, rows).

    Each segment first gives one pair, with at most one entry per key. Pairs with more entries of the same keys follow,
    and are computed only if the caller asks for them.
    """
    order = np.argsort(keys)  # in this order a search walks through the segment instead of jumping about in it
    begun = []
    for segment in segments:
        at = np.searchsorted(segment.keys, keys[order])
        at, positions, rows = _equal(segment, at, keys, order)
        begun.append((segment, at, positions))
        yield positions, rows
    for segment, at, positions in begun:
        while len(at):
            at, positions, rows = _equal(segment, at + 1, keys, positions)
            yield positions, rows


def _equal(segment: Segment, at: Array, keys: Array, positions: Array) -> tuple[Array, Array, Array]:
    """Return the places in the segment that hold the key looked for, with the positions in `keys` and the rows."""
    there, rows = segment.take(np.minimum(at, len(segment.keys) - 1))
    same = (there == keys[positions]) & (at < len(segment.keys))
    return at[same], positions[same], rows[same]
