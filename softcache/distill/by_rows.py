"""A loss for each row of the logits, computed a few rows at a time: only the gradient is as large as the logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch.autograd.function import once_differentiable

Rows = slice | torch.Tensor
RowLoss = Callable[[torch.Tensor, Rows], torch.Tensor]
# Numbers at a time. On a CPU the threads wait for each other after every operation, which takes long if other programs
# are running: so there are at most eight steps, however large the logits are, and each is large.
_CPU_NUMBERS, _CPU_STEPS, _GPU_NUMBERS = 2**20, 8, 2**25


class RowGroup(NamedTuple):
    """Rows that share a loss.

    Attributes:
        rows: their numbers, int64 [n]; None for all rows.
        loss: `loss(some, rows)` gives the losses [r] of some rows [r, C] in the dtype of the result, by differentiable
            operations. `rows` is a slice if the group has all rows, otherwise int64 [r].
    """

    rows: torch.Tensor | None
    loss: RowLoss


def by_rows(logits: torch.Tensor, groups: Sequence[RowGroup]) -> torch.Tensor:
    """Return the loss of each row of `logits` [R, C], float32 or float64 [R]; 0 with no gradient in rows of no group.

    No row is in two groups. The gradient is computed together with the loss and kept in the dtype of `logits`, but that
    of float16 in float32: what a GradScaler multiplies it by must come before it is rounded.
    """
    only, *others = groups
    if only.rows is None and not others and logits.numel() <= _at_once(logits):
        # Few numbers: what autograd keeps by itself is little, and so is the time for a step of our own.
        return only.loss(logits.to(_loss_dtype(logits)), slice(None))
    losses: torch.Tensor = _ByRows.apply(logits, groups)  # type: ignore[no-untyped-call]
    return losses


class _ByRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, groups: Sequence[RowGroup]) -> torch.Tensor:
        dtype = _loss_dtype(logits)
        kept = torch.float32 if logits.dtype == torch.float16 else logits.dtype
        needs_gradient = ctx.needs_input_grad[0]
        losses = torch.zeros(len(logits), dtype=dtype, device=logits.device)
        gradient: torch.Tensor | None = None
        for group in groups:
            for rows in _chunks(logits, group.rows):
                with torch.enable_grad():
                    some = logits[rows].detach().to(dtype).requires_grad_(needs_gradient)
                    found = group.loss(some, rows)
                    total = found.sum()
                losses[rows] = found.detach()
                if needs_gradient:
                    (of_some,) = torch.autograd.grad(total, some)
                    if len(of_some) == len(logits):  # all rows at once, in their order
                        gradient = of_some.to(kept)
                        continue
                    gradient = torch.zeros_like(logits, dtype=kept) if gradient is None else gradient
                    gradient[rows] = of_some.to(kept)
        ctx.dtype = logits.dtype
        if needs_gradient and gradient is None:
            gradient = torch.zeros_like(logits, dtype=kept)
        ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor, None]:
        (gradient,) = ctx.saved_tensors
        scale = upstream[0]
        # A mean or sum that is the whole loss multiplies by 1: a look at R numbers saves a pass over R * C.
        if scale.device.type == "cpu" and bool((scale == 1).all()):
            return gradient.to(ctx.dtype), None
        # Rounded once, after the product.
        scaled = torch.empty_like(gradient, dtype=ctx.dtype)
        return torch.mul(gradient, scale[:, None], out=scaled), None


def _loss_dtype(logits: torch.Tensor) -> torch.dtype:
    return torch.float64 if logits.dtype == torch.float64 else torch.float32


def _at_once(logits: torch.Tensor) -> int:
    """Return how many numbers are worth a step."""
    return _CPU_NUMBERS if logits.device.type == "cpu" else _GPU_NUMBERS


def _chunks(logits: torch.Tensor, group: torch.Tensor | None) -> Iterator[Rows]:
    """Yield the rows of a group, a few at a time."""
    total = len(logits) if group is None else len(group)
    width = max(logits.shape[1], 1)
    numbers = _at_once(logits)
    if logits.device.type == "cpu":
        numbers = max(numbers, total * width // _CPU_STEPS)
    at_once = max(numbers // width, 1)
    for begin in range(0, total, at_once):
        rows = slice(begin, min(begin + at_once, total))
        yield rows if group is None else group[rows]
