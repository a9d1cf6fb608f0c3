"""The index: sorted segments of (hash of key, row), for lookups (docs/format.md, section 8)."""

from __future__ import annotations

from collections.abc import Sequence
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
        if batch.schema.names != ["hash", "row"] or batch.schema.types != [pa.uint64(), pa.int64()]:
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


def candidates(segments: Sequence[Segment], hashes: Array) -> list[tuple[Array, Array]]:
    """Return the rows that may hold each hash, as (positions in `hashes`, rows), one pair per round of equal hashes.

    Nearly always there is one round per segment; a further one exists where two keys share a hash.
    """
    found = []
    for segment in segments:
        at = np.searchsorted(segment.hashes, hashes)
        positions = np.arange(len(hashes))
        while True:
            inside = at < len(segment.hashes)
            at, positions = at[inside], positions[inside]
            equal = segment.hashes[at] == hashes[positions]
            at, positions = at[equal], positions[equal]
            if not len(at):
                break
            found.append((positions, segment.rows[at]))
            at = at + 1
    return found
