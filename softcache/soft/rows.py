"""Choosing rows of a batch."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from softcache.arrays import Array
from softcache.soft.keys import KnownKeys, RowKeys

Rows = int | slice | Array | torch.Tensor


def chosen_rows(rows: Rows, count: int, device: torch.device) -> tuple[Any, Any]:
    """Return rows of a batch of `count` as an index for numpy and one for tensors on `device`; an integer is a batch.

    Raises IndexError for an integer that is out of range.
    """
    if not isinstance(rows, slice) and np.ndim(rows) == 0:
        rows = int(rows)
        if not -count <= rows < count:
            raise IndexError(f"row {rows} of a batch of {count}")
        rows = slice(rows, rows + 1 or None)
    if isinstance(rows, slice) and (rows.step or 1) < 0:
        rows = np.arange(count)[rows].copy()
    if isinstance(rows, slice):
        return rows, rows
    if isinstance(rows, torch.Tensor):
        return rows.cpu().numpy(), rows
    here = np.asarray(rows) if np.size(rows) else np.empty(0, np.int64)
    return here, torch.as_tensor(here, device=device)


def joined_keys(parts: list[RowKeys]) -> KnownKeys:
    """Return the keys of several batches as one."""
    return KnownKeys(np.concatenate([p.ids for p in parts]), np.concatenate([p.views for p in parts]))
