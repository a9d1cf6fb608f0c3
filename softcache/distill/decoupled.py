"""Divergences that split the KL divergence into parts and weigh these anew."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from softcache.distill.checks import finite
from softcache.distill.divergences import NOTHING, forward_kl
from softcache.errors import TaskError


@dataclass(frozen=True)
class DecoupledKL:
    """Decoupled knowledge distillation (Zhao et al. 2022, eq. 7). Give it to `distillation_loss` as `divergence`.

    KL(p || q) is KL of (right class, all others) plus (1 - p of the right class) times KL among the others. A confident
    teacher mutes the second term, which is what it knows beyond the label. Here both terms have weights of their own.

    Attributes:
        target: weight of the first term (the paper's alpha).
        others: weight of the second term (the paper's beta).

    Raises TaskError for a weight that is negative or not finite.

    Examples:
        >>> soft = softcache.open("runs/digits")["digit@a"].lookup([0, 1])
        >>> logits, labels = torch.zeros(2, 10, requires_grad=True), torch.tensor([0, 1])
        >>> loss = softcache.distillation_loss(
        ...     logits, soft, temperature=4.0, labels=labels, alpha=0.9, divergence=softcache.DecoupledKL(others=2.0)
        ... )
        >>> loss.backward()
    """

    target: float = 1.0
    others: float = 8.0

    def __post_init__(self) -> None:
        _check_weights({"target": self.target, "others": self.others})

    def losses(self, log_p: torch.Tensor, log_q: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the divergence of each row of log-probabilities [r, C], with the right classes int64 [r]: [r]."""
        right = labels[:, None]
        return _split(log_p, log_q, right, self.target, self.others)


@dataclass(frozen=True)
class TailAwareKL:
    """A KL divergence in which the tail counts more (after Dasgupta et al. 2026, arXiv 2602.20816).

    KL(p || q) is KL over k + 1 buckets (the teacher's k most probable classes, and all others as one) plus (mass of the
    others) times KL among the others. Here the second term has the weight `beta` in place of that mass, which is small
    wherever the teacher is confident. Give it to `distillation_loss` as `divergence`. The target must store every
    class, or the shape of its tail.

    Attributes:
        k: how many classes are the head.
        beta: weight of the divergence in the tail.

    Raises TaskError for k below 1, or a weight that is negative or not finite.

    Examples:
        >>> soft = softcache.open("runs/digits")["digit@a"].lookup([0, 1])
        >>> logits = torch.zeros(2, 10, requires_grad=True)
        >>> tail_aware = softcache.TailAwareKL(k=3, beta=1.0)
        >>> softcache.distillation_loss(logits, soft, temperature=2.0, divergence=tail_aware).backward()
    """

    k: int
    beta: float

    def __post_init__(self) -> None:
        if type(self.k) is not int or self.k < 1:
            raise TaskError(f"k is {self.k!r}; expected a number of classes, at least 1")
        _check_weights({"beta": self.beta})

    def losses(self, log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
        """Return the divergence of each row of log-probabilities [r, C]: [r]. Raises TaskError unless k < C."""
        if self.k >= log_p.shape[1]:
            raise TaskError(f"k is {self.k} and there are {log_p.shape[1]} classes; no class is left for the tail")
        return _split(log_p, log_q, log_p.topk(self.k, dim=1).indices, 1.0, self.beta)


def _split(
    log_p: torch.Tensor, log_q: torch.Tensor, head: torch.Tensor, of_buckets: float, of_others: float
) -> torch.Tensor:
    """Return weighted KL over the classes `head` [r, k] and all others as one, and KL among these others: [r]."""
    (p_buckets, p_others), (q_buckets, q_others) = (_buckets(values, head) for values in (log_p, log_q))
    among_others = forward_kl(p_others, q_others)
    # Where the teacher rules out all others, they have no distribution.
    among_others = torch.where(p_buckets[:, -1] > NOTHING, among_others, 0.0)
    return of_buckets * forward_kl(p_buckets, q_buckets) + of_others * among_others


def _buckets(log_values: torch.Tensor, head: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return log p of the head and of all others as one [r, k + 1], and log p of each given that it is an other."""
    log_values = log_values.clamp(min=NOTHING)
    others = log_values.scatter(1, head, NOTHING)
    mass = others.logsumexp(1, keepdim=True)
    return torch.cat([log_values.gather(1, head), mass], 1), others - mass


def _check_weights(weights: dict[str, float]) -> None:
    for name, weight in weights.items():
        if finite(name, weight) < 0:
            raise TaskError(f"{name} is {weight}; expected a weight of at least 0")
