"""The keys of a batch's rows: known, or read from the cache when they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from softcache.arrays import Array
from softcache.once import once


def ids_to_numpy(ids: pa.Array) -> Array:
    """Return sample ids as numpy: int64, or objects (str)."""
    return ids.to_numpy(zero_copy_only=False, writable=True)  # type: ignore[no-any-return]


class RowKeys(Protocol):
    """Sample ids (int64 or objects) and views (int32) of B rows."""

    @property
    def ids(self) -> Array:
        """Sample ids [B]."""

    @property
    def views(self) -> Array:
        """Views [B]."""

    def take(self, rows: Any) -> RowKeys:
        """Return the keys of some of the rows: a slice, a mask or positions."""


@dataclass(frozen=True, eq=False)
class KnownKeys:
    """Keys that are in memory."""

    ids: Array
    views: Array

    def take(self, rows: Any) -> KnownKeys:
        return KnownKeys(self.ids[rows], self.views[rows])


class ArrowKeys:
    """Keys with ids in an Arrow array, which become numpy objects when they are asked for."""

    def __init__(self, ids: pa.Array, views: Array) -> None:
        self.arrow, self.views = ids, views

    @once
    def ids(self) -> Array:
        return ids_to_numpy(self.arrow)

    def take(self, rows: Any) -> KnownKeys:
        return KnownKeys(self.ids[rows], self.views[rows])

    def __reduce__(self) -> Any:
        return KnownKeys, (self.ids, self.views)


class DeferredKeys:
    """Keys that are read from the cache when they are first asked for. Training loops seldom ask."""

    def __init__(self, rows: Array | range, read: Callable[[Array], tuple[Array, Array]]) -> None:
        self._rows, self._read = rows, read

    @once
    def _keys(self) -> tuple[Array, Array]:
        return self._read(np.asarray(self._rows, np.int64))

    @property
    def ids(self) -> Array:
        return self._keys[0]

    @property
    def views(self) -> Array:
        return self._keys[1]

    def take(self, rows: Any) -> DeferredKeys:
        return DeferredKeys(np.asarray(self._rows)[rows], self._read)

    def __reduce__(self) -> Any:
        return KnownKeys, self._keys
