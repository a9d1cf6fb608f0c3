"""Divergences between a teacher's and a student's distributions, for each row."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own convention

from softcache.codecs import SparseLogProbs
from softcache.tasks import TaskSpec

_NOTHING = -1e30


def forward_kl(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """Return KL(p || q) = sum p (log p - log q) over the last axis."""
    if bool(log_p.detach().amin() > -torch.inf):
        return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)
    # Replace what p rules out on both sides: even an unused infinity would make the gradient NaN.
    there = log_p > -torch.inf
    log_p, log_q = torch.where(there, log_p, 0.0), torch.where(there, log_q, 0.0)
    return torch.where(there, log_p.exp() * (log_p - log_q), 0.0).sum(-1)


def reverse_kl(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """Return KL(q || p) over the last axis. It is infinite if q gives probability to what p rules out."""
    return forward_kl(log_q, log_p)


def jensen_shannon(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """Return (KL(p || m) + KL(q || m)) / 2 with m = (p + q) / 2, over the last axis: at most log 2 (Lin 1991)."""
    log_m = torch.logaddexp(log_p.clamp(min=_NOTHING), log_q.clamp(min=_NOTHING)) - math.log(2)
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
