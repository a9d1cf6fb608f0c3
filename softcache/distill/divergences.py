"""Divergences between a teacher's and a student's distributions, for each row."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from softcache.codecs import SparseLogProbs
from softcache.tasks import TaskSpec

# Stands for log 0: unlike -inf it gives no NaN when two of them are subtracted.
NOTHING = -1e30


class _KL(torch.autograd.Function):
    """Written by hand since it is the hot path: about half the passes over memory that automatic gradients take."""

    @staticmethod
    def forward(ctx: Any, log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
        p = log_p.exp()
        terms = (log_p - log_q).mul_(p)
        losses = terms.sum(-1)
        if math.isnan(losses.sum()):
            # What p rules out adds nothing, even if q rules it out too. A NaN that is given stays one.
            terms = torch.where((p != 0) | log_q.isnan(), terms, 0.0)
            losses = terms.sum(-1)
        ctx.save_for_backward(p, terms if ctx.needs_input_grad[0] else None)
        return losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        p, terms = ctx.saved_tensors
        of_each = upstream[0][..., None]
        of_p = (terms + p).mul_(of_each) if ctx.needs_input_grad[0] else None
        return of_p, p * -of_each if ctx.needs_input_grad[1] else None


def forward_kl(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """Return KL(p || q) = sum p (log p - log q) over the last axis."""
    losses: torch.Tensor = _KL.apply(log_p, log_q)  # type: ignore[no-untyped-call]
    return losses


def reverse_kl(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """Return KL(q || p) over the last axis. It is infinite if q gives probability to what p rules out."""
    return forward_kl(log_q, log_p)


def jensen_shannon(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """Return (KL(p || m) + KL(q || m)) / 2 with m = (p + q) / 2, over the last axis: at most log 2 (Lin 1991)."""
    log_m = torch.logaddexp(log_p.clamp(min=NOTHING), log_q.clamp(min=NOTHING)) - math.log(2)
    return (forward_kl(log_p, log_m) + forward_kl(log_q, log_m)) / 2


DIVERGENCES: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "forward_kl": forward_kl,
    "reverse_kl": reverse_kl,
    "jensen_shannon": jensen_shannon,
}


def known_classes(logits: torch.Tensor, task: TaskSpec) -> torch.Tensor:
    """Return a student's logits [R, C] for the classes that a teacher knows, in the order of the teacher's values.

    If the teacher has a dustbin, the last one is that of all other classes together.
    """
    if task.known is None:
        return logits
    known = torch.tensor(task.known, device=logits.device)
    found = logits[:, known]
    if not task.dustbin:
        return found
    others = logits.index_fill(1, known, -torch.inf).logsumexp(1, keepdim=True)
    return torch.cat([found, others], 1)


def known_columns(each: torch.Tensor, task: TaskSpec) -> torch.Tensor:
    """Return columns of the label space [R, C] for the classes that a teacher of independent classes knows: [R, K]."""
    return each if task.known is None else each[:, torch.tensor(task.known, device=each.device)]


def teacher_buckets(teacher: SparseLogProbs, classes: int) -> torch.Tensor:
    """Return log p of the teacher's classes, and of the others, if any, as one class: [R, k + 1] or [R, C]."""
    if teacher.ids.shape[1] == classes:
        return teacher.log_probs
    return torch.cat([teacher.log_probs, teacher.log_tail[:, None]], 1)


def student_buckets(logits: torch.Tensor, teacher: SparseLogProbs) -> torch.Tensor:
    """Return the log of softmax(logits [R, C]) over the same buckets.

    The other classes are summed directly: 1 minus the sum of the stored ones would lose any mass below 1e-7.
    """
    total = logits.logsumexp(1, keepdim=True)
    own = logits.gather(1, teacher.ids) - total
    if teacher.ids.shape[1] == logits.shape[1]:
        return own
    rest = logits.scatter(1, teacher.ids, -torch.inf).logsumexp(1, keepdim=True)
    return torch.cat([own, rest - total], 1)
