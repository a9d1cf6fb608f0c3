"""Features targets without a cache, and what the tests of their losses share: resizing written out, degenerate rows."""

from __future__ import annotations

import numpy as np
import torch

import softcache
from softcache.codecs import DenseCodec
from softcache.soft.keys import KnownKeys
from softcache.tasks import TaskSpec


def features(
    values: torch.Tensor,
    mask: torch.Tensor | None = None,
    variance: torch.Tensor | None = None,
    kind: str = "features",
) -> softcache.SoftTargets:
    """Soft targets with these values [B, ...], stored as float32; rows without an answer are NaN, as in a cache."""
    parts = {} if variance is None else {"variance": variance}
    task = TaskSpec("regression" if parts else kind, tuple(values.shape[1:]), parts=tuple(parts))
    codec = DenseCodec(task, "float32")
    mask = torch.ones(len(values), dtype=torch.bool) if mask is None else mask
    columns = codec.encode(values) | parts
    for name, column in columns.items():
        columns[name] = torch.where(mask.view(-1, *(1,) * (column.ndim - 1)), column.float(), torch.nan)
    keys = KnownKeys(np.arange(len(values)), np.zeros(len(values), np.int32))
    return softcache.SoftTargets(codec.decoder, columns, mask, keys)


def resize_by_hand(maps: torch.Tensor, size: tuple[int, int], how: str) -> torch.Tensor:
    """Maps [..., H', W'] in another size, float64, as products with the weights of each place."""
    rows, columns = (weights(old, new, how) for old, new in zip(maps.shape[-2:], size, strict=True))
    return torch.einsum("yh,...hw,xw->...yx", rows, maps.double(), columns)


def weights(old: int, new: int, how: str) -> torch.Tensor:
    """How much each of `old` places adds to each of `new`, [new, old], float64."""
    found = torch.zeros(new, old, dtype=torch.float64)
    for i in range(new):
        if how == "area":  # the mean of the places that it overlaps
            first, last = i * old // new, -(-(i + 1) * old // new)
            found[i, first:last] = 1 / (last - first)
        else:  # between the two nearest centres; outside all centres, the nearest
            at = min(max((i + 0.5) * old / new - 0.5, 0), old - 1)
            low = min(int(at), old - 1)
            found[i, low] += 1 - (at - low)
            found[i, min(low + 1, old - 1)] += at - low
    return found


def tolerance(dtype: torch.dtype) -> float:
    return 1e-10 if dtype == torch.float64 else 1e-4
