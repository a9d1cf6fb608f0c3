"""A small student with two heads, and every rule that weighs their losses."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from softcache import multitask

TASKS = ("digit@a", "value@b.2")
Batch = tuple[torch.Tensor, dict[str, bool]]


class Student(nn.Module):
    """A trunk and a head for each task. Its losses are above 0."""

    def __init__(self, seed: int = 0, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.trunk = nn.Linear(5, 7, dtype=dtype)
        self.heads = nn.ModuleList(nn.Linear(7, 3, dtype=dtype) for _ in TASKS)

    def losses(self, batch: Batch) -> dict[str, torch.Tensor | None]:
        x, present = batch
        hidden = self.trunk(x).tanh()
        first, second = (head(hidden) for head in self.heads)
        losses = first.logsumexp(1).exp().mean(), 30 * (second - 1).square().mean()
        return {name: loss if present[name] else None for name, loss in zip(TASKS, losses, strict=True)}


RULES: dict[str, Callable[[Student], multitask.TaskWeights]] = {
    "Fixed": lambda student: multitask.Fixed({TASKS[0]: 0.3, TASKS[1]: 2.0}),
    "Uncertainty": lambda student: multitask.Uncertainty(TASKS, regression=TASKS[1:]),
    "DWA": lambda student: multitask.DWA(TASKS),
    "GradNorm": lambda student: multitask.GradNorm(TASKS, student.trunk.parameters(), lr=0.1),
    "FAMO": lambda student: multitask.FAMO(TASKS, lr=0.1),
}


def batches(seed: int, count: int, dtype: torch.dtype = torch.float32) -> Iterator[Batch]:
    """Yield batches in which a task, or both, may be absent."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        there = (torch.rand(2, generator=generator) < 0.7).tolist()
        yield torch.randn(6, 5, generator=generator, dtype=dtype), dict(zip(TASKS, there, strict=True))


class Run:
    """A student in training, whose every fourth batch ends an epoch."""

    def __init__(self, rule: str) -> None:
        self.student = Student()
        self.weights = RULES[rule](self.student)
        self.optimizer = torch.optim.Adam([*self.student.parameters(), *self.weights.parameters()], lr=0.02)

    def parts(self) -> dict[str, Any]:
        return {"student": self.student, "weights": self.weights, "optimizer": self.optimizer}

    def step(self, number: int, batch: Batch) -> None:
        self.optimizer.zero_grad()
        self.weights(self.student.losses(batch)).backward()
        self.optimizer.step()
        if isinstance(self.weights, multitask.FAMO):
            with torch.no_grad():
                self.weights.update(self.student.losses(batch))
        if number % 4 == 3:
            self.weights.end_epoch()
