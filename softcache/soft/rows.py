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

    Raises IndexError for an integer that is out of range, TypeError for anything but integers and masks [n].
    """
    if not isinstance(rows, slice):
        here = rows.cpu().numpy() if isinstance(rows, torch.Tensor) else np.asarray(rows)
        if here.size and (here.dtype.kind not in "biu" or here.ndim > 1 or (here.ndim == 0 and here.dtype == np.bool_)):
            raise TypeError(f"rows are {here.dtype} {list(here.shape)}; expected a slice, a mask [{count}] or integers")
        if here.ndim:
            # torch would take uint8 for a mask.
            here = here if here.dtype == np.bool_ else here.astype(np.int64)
            return here, torch.from_numpy(here).to(device)
        position = int(here)
        if not -count <= position < count:
            raise IndexError(f"row {position} of a batch of {count}")
        rows = slice(position, position + 1 or None)
    if (rows.step or 1) < 0:
        here = np.arange(count)[rows].copy()
        return here, torch.from_numpy(here).to(device)
    return rows, rows


def joined_keys(parts: list[RowKeys]) -> KnownKeys:
    """Return the keys of several batches as one."""
    return KnownKeys(np.concatenate([p.ids for p in parts]), np.concatenate([p.views for p in parts]))
