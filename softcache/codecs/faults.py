"""Values that must not be stored, by row, with the reason."""

from __future__ import annotations

import math

import torch

from softcache.kinds import Part
from softcache.tasks import TaskSpec

PROBS_SUM_TOLERANCE, LIKE_PROBS_TOLERANCE = 1e-2, 2e-3
_WIDER = {"float16": " (store bfloat16 or float32)", "bfloat16": " (store float32)", "float32": ""}


def value_faults(values: torch.Tensor, task: TaskSpec, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    """Return what is wrong with `values` [B, C, P] (P places) that are to become `dtype`: reason -> bool [B, N]."""
    faults = {"NaN": torch.isnan(values), "+Inf": values == torch.inf}
    if not task.allow_masked:
        faults["-Inf (declare allow_masked if the teacher rules classes out)"] = values == -torch.inf
    overflow = torch.isinf(values.to(dtype)) & torch.isfinite(values)
    name = str(dtype).removeprefix("torch.")
    faults[f"a value too large for {name}{_WIDER[name]}"] = overflow
    if task.value_kind == "probs" and task.activation == "sigmoid":
        faults["values declared probs outside [0, 1]"] = (values < 0) | (values > 1)
    elif task.value_kind == "probs":
        off = (values.float().sum(1) - 1).abs() > PROBS_SUM_TOLERANCE
        faults["values declared probs that are negative or do not sum to 1"] = (values < 0).any(1) | off
    elif task.value_kind == "log_probs":
        off = torch.logsumexp(values.float(), 1).abs() > PROBS_SUM_TOLERANCE
        faults["values declared log_probs whose exponentials do not sum to 1"] = off
    elif task.activation == "softmax":
        faults["every class is -Inf"] = (values == -torch.inf).all(1)
    return {reason: where.flatten(1) for reason, where in faults.items()}


def like_probs(values: torch.Tensor, task: TaskSpec) -> bool:
    """Whether values [B, C, ...], which are declared logits, all look like probabilities."""
    values = values.detach().float()
    if task.activation == "sigmoid":
        low, high = torch.aminmax(values)
        return float(low) >= 0 and float(high) <= 1
    return bool(values.amin() >= 0) and bool(((values.sum(1) - 1).abs() <= LIKE_PROBS_TOLERANCE).all())


def part_faults(values: torch.Tensor, part: Part) -> dict[int, str]:
    """Return the items of a part's `values` [B, ...] that must not be stored, and why."""
    flat = values.float().reshape(len(values), math.prod(values.shape[1:]))
    faults = {f"a value of {part.name} that is not finite": ~flat.isfinite()}
    if part.positive:
        faults[f"a value of {part.name} that is not above 0"] = flat <= 0
    return by_row(faults)


def by_row(faults: dict[str, torch.Tensor]) -> dict[int, str]:
    """Return the rows that have a fault, each with its first reason."""
    found: dict[int, str] = {}
    for reason, where in faults.items():
        for row in where.any(1).nonzero()[:, 0].tolist():
            found.setdefault(row, reason)
    return found


def fits(values: torch.Tensor, dtype: torch.dtype) -> bool:
    """Whether all values are finite, and stay finite in `dtype`. They nearly always are, and one pass shows it."""
    low, high = torch.aminmax(values)
    limit = torch.finfo(dtype).max
    return -limit <= float(low) and float(high) <= limit


def faults_as(values: torch.Tensor, task: TaskSpec, dtype: torch.dtype) -> dict[int, str]:
    """Return the rows of `values` [B, ...] that cannot become `dtype`, and why."""
    if not len(values):
        return {}
    values = values.detach()
    if task.value_kind in (None, "logits") and fits(values, dtype):
        return {}
    return by_row(value_faults(values.reshape(len(values), task.shape[0], -1), task, dtype))
