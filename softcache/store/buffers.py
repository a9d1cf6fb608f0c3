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
    """A column of lists: their items one after the other, `values` [N, ...], and where each row's begin.

    `offsets` is int32 [rows + 1], from 0 to N.
    """

    values: Array
    offsets: Array


@dataclass(frozen=True, kw_only=True)
class Buffer:
    """One contiguous run of numbers of a column.

    `file` is the position of its file in the shard's files; `offset` and `bytes` are in bytes.
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
        """Return the buffer as in receipts and manifests."""
        return dict(vars(self))
