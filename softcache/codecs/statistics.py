"""Statistics of stored values, per shard and merged (docs/format.md, section 6)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from softcache.arrays import Array
from softcache.codecs.codec import Codec
from softcache.codecs.fidelity import Errors, merge_errors
from softcache.measures import ShardStatistics, Statistics

# Few enough for a core's cache, and for torch to stay in this thread: the teacher needs the others.
_CHUNK = 32_768
_ITEMS = 16_384


def value_statistics(codec: Codec, columns: Mapping[str, torch.Tensor], valid: Array) -> ShardStatistics:
    """Return a shard's statistics over the finite stored values of valid rows (docs/format.md, section 6).

    `columns` have an item for each row, or for each stored position if rows are sequences.
    """
    items = len(next(iter(columns.values())))
    chunks: list[Statistics] = []
    decoder = codec.decoder
    for begin in range(0, items, _ITEMS):
        values = decoder.values({name: column[begin : begin + _ITEMS] for name, column in columns.items()})
        if not codec.task.is_list and not valid[begin : begin + _ITEMS].all():
            values = values[torch.from_numpy(valid[begin : begin + _ITEMS])]
        flat = values.reshape(-1)
        chunks += [_of_chunk(flat[i : i + _CHUNK].double()) for i in range(0, len(flat), _CHUNK)]
    found: ShardStatistics = {"valid": int(valid.sum()), **merge_statistics(chunks)}
    if codec.task.is_list:
        found["positions"] = items
    return found


def _of_chunk(values: torch.Tensor) -> Statistics:
    """Return the statistics of some values, float64. Overwrites them."""
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


def merge_statistics(parts: Sequence[Statistics]) -> Statistics:
    """Return the statistics of several shards as one. Means and deviations are combined exactly (Chan et al. 1979)."""
    merged = _merge_values([p for p in parts if p.get("count")])
    errors = [Errors.from_json(p["errors"]) for p in parts if "errors" in p]
    if errors:
        merged["errors"] = merge_errors(errors).to_json()
    positions = [p["positions"] for p in parts if "positions" in p]
    if parts and len(positions) == len(parts):
        merged["positions"] = sum(positions)
    return merged


def _merge_values(parts: Sequence[Statistics]) -> Statistics:
    if not parts:
        return {"count": 0, "min": None, "max": None, "mean": None, "std": None}
    counts, means, deviations, lows, highs = np.array(
        [(p["count"], p["mean"], p["std"], p["min"], p["max"]) for p in parts], np.float64
    ).T
    mean = float((counts * means).sum() / counts.sum())
    variance = (counts * (deviations**2 + (means - mean) ** 2)).sum() / counts.sum()
    return {
        "count": int(counts.sum()),
        "min": float(lows.min()),
        "max": float(highs.max()),
        "mean": mean,
        "std": float(np.sqrt(variance)),
    }
