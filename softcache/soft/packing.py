"""Sequences as tensors: padded, and packed one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from softcache.errors import AlignmentError

NO_TOKEN = -100
PackedTokens = tuple[torch.Tensor, torch.Tensor]
"""The tokens of all sequences, and how many each sequence has."""


def token_rows(given: Any) -> torch.Tensor:
    """Return token ids as int64 [B, L], lists padded with -1. Raises AlignmentError."""
    try:
        if not isinstance(given, torch.Tensor):
            rows = [np.asarray(row) for row in given]
            width = max(map(len, rows), default=0)
            padded = [np.pad(row, (0, width - len(row)), constant_values=-1) for row in rows if row.dtype.kind in "iu"]
            given = (
                torch.from_numpy(np.stack(padded).astype(np.int64)) if padded else torch.empty(0, 0, dtype=torch.int64)
            )
            if len(padded) < len(rows):
                raise TypeError("not integers")
        if given.is_floating_point() or given.dtype == torch.bool:
            raise TypeError(f"{given.dtype}")
        return torch.as_tensor(given).long()
    except (TypeError, ValueError) as e:
        raise AlignmentError(f"input_ids are no integers [B, L]: {e}") from e


def items_of(chosen: torch.Tensor, counts: torch.Tensor) -> torch.Tensor:
    """Return the numbers of the items of `chosen` sequences, in that order, int64.

    `counts` [B] are the items of each sequence, which lie one sequence after the other.
    """
    begins, picked = counts.cumsum(0) - counts, counts[chosen]
    row = torch.repeat_interleave(torch.arange(len(chosen), device=chosen.device), picked)
    within = torch.arange(len(row), device=chosen.device) - (picked.cumsum(0) - picked)[row]
    return begins[chosen][row] + within


def joined_tokens(parts: Sequence[PackedTokens]) -> PackedTokens:
    """Return the packed tokens of several batches as one."""
    return torch.cat([items for items, _ in parts]), torch.cat([counts for _, counts in parts])


def widened(rows: torch.Tensor, width: int, fill: int | bool) -> torch.Tensor:
    """Return rows [B, L] padded to `width` with `fill`."""
    return torch.nn.functional.pad(rows, (0, width - rows.shape[1]), value=fill)
