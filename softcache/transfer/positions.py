"""Look up the positions of samples by id."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from softcache.store.keys import index_keys


class Positions:
    """The positions of unique sample ids, an int64 or string Arrow array. Makes no Python object per id."""

    def __init__(self, ids: pa.Array) -> None:
        self._ids, keys = ids, index_keys(ids)
        self._order = np.argsort(keys, kind="stable")
        self._keys = keys[self._order]

    def find(self, sample_id: Any) -> int | None:
        """Return the position of a sample, None if its id is unknown."""
        key = index_keys(pa.array([sample_id], self._ids.type))[0]
        at = int(self._keys.searchsorted(key))
        while at < len(self._keys) and self._keys[at] == key:
            position = int(self._order[at])
            if self._ids[position].as_py() == sample_id:
                return position
            at += 1
        return None
