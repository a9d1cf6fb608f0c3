"""The index: sorted segments of (hash of key, row), for lookups (docs/format.md, section 8)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from softcache.errors import FormatError
from softcache.store import arrow

Array = np.ndarray[Any, Any]
MAX_SEGMENTS = 8


class Segment:
    """One sorted segment; `hashes` uint64 [n] ascending, `rows` int64 [n], straight from its bytes."""

    def __init__(self, data: bytes | pa.Buffer, where: str) -> None:
        batch = arrow.load(data, where)
        if (
            not batch.num_rows
            or batch.schema.names != ["hash", "row"]
            or batch.schema.types != [pa.uint64(), pa.int64()]
        ):
            raise FormatError(f"{where}: not an index segment")
        self.hashes: Array = batch["hash"].to_numpy()
        self.rows: Array = batch["row"].to_numpy()


def dump_segment(hashes: Array, rows: Array) -> bytes:
    """Return a segment as a file's bytes."""
    order = np.lexsort((rows, hashes))
    return arrow.dump({"hash": pa.array(hashes[order], pa.uint64()), "row": pa.array(rows[order], pa.int64())})


def merge(segments: Sequence[Segment]) -> tuple[Array, Array]:
    """Return all hashes and rows of several segments, not sorted."""
    return np.concatenate([s.hashes for s in segments]), np.concatenate([s.rows for s in segments])


def candidates(segments: Sequence[Segment], hashes: Array) -> Iterator[tuple[Array, Array]]:
    """Yield the rows that may hold each hash, as (positions in `hashes`, rows).

    One pair per segment comes first; further ones, where neighbours share a hash, follow only if they are asked for.
    """
    order = np.argsort(hashes)  # ascending, a search walks the segment instead of jumping about in it
    begun = []
    for segment in segments:
        at = np.searchsorted(segment.hashes, hashes[order])
        at, positions = _equal(segment, at, hashes, order)
        begun.append((segment, at, positions))
        yield positions, segment.rows[at]
    for segment, at, positions in begun:
        while len(at):
            at, positions = _equal(segment, at + 1, hashes, positions)
            yield positions, segment.rows[at]


def _equal(segment: Segment, at: Array, hashes: Array, positions: Array) -> tuple[Array, Array]:
    """Return the places and positions where the segment does have the hash."""
    inside = np.minimum(at, len(segment.hashes) - 1)
    same = (segment.hashes[inside] == hashes[positions]) & (at < len(segment.hashes))
    return at[same], positions[same]
