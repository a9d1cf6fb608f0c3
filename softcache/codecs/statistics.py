"""Statistics of stored values, per shard and merged (docs/format.md, section 6)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from softcache.codecs.base import Codec
from softcache.codecs.fidelity import Errors, merge_errors

Array = np.ndarray[Any, Any]
# Few enough for a core's cache, and for torch to stay in this thread: the teacher needs its own.
_CHUNK = 32_768
_ITEMS = 16_384


def value_statistics(codec: Codec, columns: Mapping[str, torch.Tensor], valid: Array) -> dict[str, Any]:
    """Return a shard's statistics over the finite stored values of valid rows (docs/format.md, section 6).

    `columns` have an item for each row, or where rows are sequences for each position that is stored.
    """
    items = len(next(iter(columns.values())))
    chunks: list[dict[str, Any]] = []
    for begin in range(0, items, _ITEMS):
        values = codec.values({name: column[begin : begin + _ITEMS] for name, column in columns.items()})
        if not codec.task.is_list and not valid[begin : begin + _ITEMS].all():
            values = values[torch.from_numpy(valid[begin : begin + _ITEMS])]
        flat = values.reshape(-1)
        chunks += [_of_chunk(flat[i : i + _CHUNK].double()) for i in range(0, len(flat), _CHUNK)]
    counts = {"valid": int(valid.sum())} | ({"positions": items} if codec.task.is_list else {})
    return counts | merge_statistics(chunks)


def _of_chunk(values: torch.Tensor) -> dict[str, Any]:
    """Return the statistics of some values, float64, which it overwrites."""
    if not math.isfinite(float(values.sum())):
        values = values[values.isfinite()]
    if not len(values):
        return {"count": 0}
    low, high = torch.aminmax(values)
    mean = float(values.mean())
    variance = float(values.sub_(mean).square_().mean())
    return {
        "count": len(values),
        "min": float(low),
        "max": float(high),
        "mean": mean,
        "std": math.sqrt(variance),
    }


def merge_statistics(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the statistics of several shards as one. Means and deviations are combined exactly (Chan et al. 1979)."""
    errors = [Errors.from_json(p["errors"]) for p in parts if "errors" in p]
    merged: dict[str, Any] = {"errors": merge_errors(errors).to_json()} if errors else {}
    if parts and all("positions" in p for p in parts):
        merged["positions"] = sum(p["positions"] for p in parts)
    parts = [p for p in parts if p.get("count")]
    if not parts:
        return {"count": 0, "min": None, "max": None, "mean": None, "std": None} | merged
    counts = np.array([p["count"] for p in parts], np.float64)
    means, deviations = (np.array([p[k] for p in parts], np.float64) for k in ("mean", "std"))
    mean = float((counts * means).sum() / counts.sum())
    variance = (counts * (deviations**2 + (means - mean) ** 2)).sum() / counts.sum()
    return {
        "count": int(counts.sum()),
        "min": min(p["min"] for p in parts),
        "max": max(p["max"] for p in parts),
        "mean": mean,
        "std": float(np.sqrt(variance)),
    } | merged
