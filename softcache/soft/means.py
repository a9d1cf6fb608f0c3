"""The weighted mean of several distributions over the same outcomes, given and returned as logs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from softcache.errors import TaskError, counted

Mean = Callable[[Sequence[torch.Tensor], Sequence[float], int], torch.Tensor]


def arithmetic_mean(members: Sequence[torch.Tensor], weights: Sequence[float], axis: int) -> torch.Tensor:
    """Return log sum_k w_k p_k of log-probabilities of one shape; the positive weights add up to 1."""
    return torch.stack([m + math.log(w) for m, w in zip(members, weights, strict=True)]).logsumexp(0)


def geometric_mean(members: Sequence[torch.Tensor], weights: Sequence[float], axis: int) -> torch.Tensor:
    """Return the log of prod_k p_k^w_k, divided by its sum over the outcomes, which lie on `axis`.

    What one member rules out the mean rules out. Raises TaskError if nothing is left.
    """
    product = torch.stack([m * w for m, w in zip(members, weights, strict=True)]).sum(0)
    total = product.logsumexp(axis, keepdim=True)
    empty = int((total == -torch.inf).sum())
    if empty:
        raise TaskError(
            f"the members have no geometric mean for {counted(empty, 'distribution')}: each of them rules out what the "
            "others allow; use mean='arithmetic'"
        )
    return product - total


MEANS: dict[str, Mean] = {"arithmetic": arithmetic_mean, "geometric": geometric_mean}
