"""Statistics of stored values, per shard and merged (docs/format.md, section 6)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from softcache.codecs.base import Codec

Array = np.ndarray[Any, Any]


def value_statistics(codec: Codec, columns: Mapping[str, torch.Tensor], valid: Array) -> dict[str, Any]:
    """Return a shard's statistics over the finite stored values of valid rows (docs/format.md, section 6)."""
    values = codec.values(columns)[valid].double().numpy()
    finite = values[np.isfinite(values)]
    if not finite.size:
        return {"valid": int(valid.sum()), "count": 0, "min": None, "max": None, "mean": None, "std": None}
    return {
        "valid": int(valid.sum()),
        "count": int(finite.size),
        "min": float(finite.min()),
        "max": float(finite.max()),
        "mean": float(finite.mean()),
        "std": float(finite.std()),
    }


def merge_statistics(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the statistics of several shards as one. Means and deviations are combined exactly (Chan et al. 1979)."""
    parts = [p for p in parts if p.get("count")]
    if not parts:
        return {"count": 0, "min": None, "max": None, "mean": None, "std": None}
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
    }
