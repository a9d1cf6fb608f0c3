"""The space that a build takes, and whether it is free."""

from __future__ import annotations

import math
from collections.abc import Sequence

from softcache.builder.prepare.units import Unit
from softcache.codecs import Codec
from softcache.errors import StorageError
from softcache.store.buffers import NUMPY_DTYPES
from softcache.store.files import Files

ROWS_BYTES, VIEW_BYTES, SHARD_BYTES, BLOCK_BYTES, TOKEN_BYTES = 64, 8, 8192, 4096, 8


def item_bytes(codec: Codec) -> int:
    """Return how many bytes a codec stores for a row, or where rows are sequences for a position."""
    return sum(NUMPY_DTYPES[c.dtype].itemsize * math.prod(c.shape) for c in codec.columns)


def unit_bytes(unit: Unit, kept_bytes: float, positions: float = 1.0) -> int:
    """Return about how many bytes a unit's shard and receipt take.

    `kept_bytes` is the size of a sample's kept columns, `positions` how many positions a row has if rows are sequences.
    """
    fragment = unit.fragment
    row = fragment.sample_ids.nbytes / len(fragment.sample_ids) + 5
    if unit.target is None:
        row = VIEW_BYTES + (row + ROWS_BYTES + kept_bytes) / fragment.views
    elif unit.target.task.is_list:
        row += positions * (item_bytes(unit.target.codec) + TOKEN_BYTES)
    else:
        row += item_bytes(unit.target.codec)
    return int(fragment.rows * row) + SHARD_BYTES + _parts(unit) * BLOCK_BYTES


def _parts(unit: Unit) -> int:
    """Return how many files a Zarr shard has, each of which takes at least one block of the disk: 0 for Arrow."""
    if unit.target is None or unit.target.format != "zarr":
        return 0
    return 1 + 2 * (len(unit.target.codec.columns) + 3)


def estimated_bytes(units: Sequence[Unit], kept_bytes: float, positions: float = 1.0) -> int:
    """Return about how many bytes units take. Arguments as for `unit_bytes`."""
    return sum(unit_bytes(unit, kept_bytes, positions) for unit in units)


def check_space(files: Files, needed: int) -> None:
    """Raise StorageError if `needed` bytes do not fit on the cache's disk."""
    free = files.free_bytes()
    if free is not None and needed > free:
        raise StorageError(
            f"{files.url}: the build needs about {needed:,} bytes and {free:,} are free; make room or build elsewhere"
        )
