"""What a build will cost: bytes and free disk."""

from __future__ import annotations

import math
from collections.abc import Sequence

from softcache.builder.units import Unit
from softcache.errors import StorageError
from softcache.store.buffers import NUMPY_DTYPES
from softcache.store.files import Files

ROWS_BYTES, SHARD_BYTES, BLOCK_BYTES = 64, 8192, 4096


def unit_bytes(unit: Unit, kept_bytes: float) -> int:
    """Return about how many bytes a unit's shard and receipt take, with `kept_bytes` of kept columns a row."""
    fragment = unit.fragment
    row = fragment.sample_ids.nbytes / len(fragment.sample_ids) + 5
    if unit.target is None:
        row += ROWS_BYTES + kept_bytes
    else:
        row += sum(NUMPY_DTYPES[c.dtype].itemsize * math.prod(c.shape) for c in unit.target.codec.columns)
    return int(fragment.rows * row) + SHARD_BYTES + _parts(unit) * BLOCK_BYTES


def _parts(unit: Unit) -> int:
    """Return how many files a Zarr shard has, each of which takes a block of the disk at least: 0 for Arrow."""
    if unit.target is None or unit.target.format != "zarr":
        return 0
    return 1 + 2 * (len(unit.target.codec.columns) + 3)


def estimated_bytes(units: Sequence[Unit], kept_bytes: float) -> int:
    """Return about how many bytes units take."""
    return sum(unit_bytes(unit, kept_bytes) for unit in units)


def check_space(files: Files, needed: int) -> None:
    """Raise StorageError if `needed` bytes do not fit on the cache's disk."""
    free = files.free_bytes()
    if free is not None and needed > free:
        raise StorageError(
            f"{files.url}: the build needs about {needed:,} bytes and {free:,} are free; make room or build elsewhere"
        )
