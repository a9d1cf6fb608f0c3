"""Columns: what a codec stores of each row, in fixed-width numbers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

STORED_DTYPES = {
    "uint8": torch.uint8,
    "uint16": torch.uint16,
    "int32": torch.int32,
    "float16": torch.float16,
    "float32": torch.float32,
}


@dataclass(frozen=True, kw_only=True)
class Column:
    """A stored column: each row has `shape` numbers of `dtype` (a storage dtype of docs/format.md).

    `missing` is the value of every number in a row without an answer. A `companion` column is for people who read the
    shards without softcache; softcache itself never reads it.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    missing: float | int
    companion: bool = False


def missing_columns(columns: Iterable[Column], rows: int) -> dict[str, torch.Tensor]:
    """Return columns for `rows` rows without an answer, by name, each [rows, *shape]."""
    return {c.name: torch.full((rows, *c.shape), c.missing, dtype=STORED_DTYPES[c.dtype]) for c in columns}
