"""Where a column's numbers lie in a shard's files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from softcache.arrays import Array
from softcache.errors import FormatError

NUMPY_DTYPES = {name: np.dtype(name) for name in ("uint8", "uint16", "int32", "int64", "float16", "float32")}
DTYPES = (*NUMPY_DTYPES, "bit", "bytes")


@dataclass(frozen=True, eq=False)
class ListColumn:
    """A column of lists: the items of all rows one after the other, and where each row's items begin.

    `values` is [N, ...]. `offsets` is int32 [rows + 1], from 0 to N: row i has the items from `offsets[i]` up to
    `offsets[i + 1]`.
    """

    values: Array
    offsets: Array


@dataclass(frozen=True, kw_only=True)
class Buffer:
    """One contiguous run of a column's numbers.

    `file` is the position of the run's file in the shard's list of files; `offset` and `bytes` count bytes. Raises
    FormatError for an unknown dtype or a negative number.
    """

    name: str
    dtype: str
    file: int
    offset: int
    bytes: int

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES or min(self.file, self.offset, self.bytes) < 0:
            raise FormatError(f"not a column entry: {self}")

    def to_json(self) -> dict[str, Any]:
        """Return the buffer as receipts and manifests hold it."""
        return dict(vars(self))
