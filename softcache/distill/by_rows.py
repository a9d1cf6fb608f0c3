"""A loss for each row of the logits, computed a few rows at a time: only the gradient is as large as the logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.autograd.function import once_differentiable

Rows = slice | torch.Tensor
RowLoss = Callable[[torch.Tensor, Rows], torch.Tensor]
# Numbers at a time: a few copies of this many must be small beside the logits.
_CPU_NUMBERS, _GPU_NUMBERS = 2**19, 2**25


def by_rows(logits: torch.Tensor, loss: RowLoss, mask: torch.Tensor) -> torch.Tensor:
    """Return the loss of each row of `logits` [R, C], float32 or float64 [R], 0 with no gradient where not `mask` [R].

    `loss(some, rows)` gives the losses [r] of some rows [r, C] in the dtype of the result, by differentiable
    operations; `rows` is a slice, or int64 [r] if not all rows count. The gradient is computed together with the loss
    and kept in the dtype of `logits`.
    """
    losses: torch.Tensor = _ByRows.apply(logits, loss, mask)  # type: ignore[no-untyped-call]
    return losses


class _ByRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, loss: RowLoss, mask: torch.Tensor) -> torch.Tensor:
        dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
        needs_gradient = ctx.needs_input_grad[0]
        losses = torch.zeros(len(logits), dtype=dtype, device=logits.device)
        gradient = torch.zeros_like(logits) if needs_gradient else None
        for rows in _chunks(logits, mask):
            with torch.enable_grad():
                some = logits[rows].detach().to(dtype, copy=True).requires_grad_(needs_gradient)
                found = loss(some, rows)
                total = found.sum()
            losses[rows] = found.detach()
            if gradient is not None:
                (of_some,) = torch.autograd.grad(total, some)
                gradient[rows] = of_some.to(gradient.dtype)
        ctx.save_for_backward(gradient)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * upstream[0].to(gradient.dtype)[:, None], None, None


def _chunks(logits: torch.Tensor, mask: torch.Tensor) -> Iterator[Rows]:
    """Yield the rows that count, a few at a time."""
    numbers = _CPU_NUMBERS if logits.device.type == "cpu" else _GPU_NUMBERS
    at_once = max(numbers // max(logits.shape[1], 1), 1)
    counting = None if bool(mask.all()) else mask.nonzero()[:, 0]
    total = len(logits) if counting is None else len(counting)
    for begin in range(0, total, at_once):
        rows = slice(begin, min(begin + at_once, total))
        yield rows if counting is None else counting[rows]
