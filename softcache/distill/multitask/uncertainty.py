"""Weights from learned uncertainties (Kendall, Gal and Cipolla 2018)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from softcache.distill.multitask.losses import named_tasks, task_names
from softcache.distill.multitask.weights import TaskWeights


class Uncertainty(TaskWeights):
    """Weights from uncertainties that are learned with the student: sum of c_i exp(-s_i) L_i + s_i / 2.

    s_i is the log variance of task i, at first 0. c_i is 1 for classification and 1/2 for regression with a squared
    error (Kendall, Gal and Cipolla 2018, eq. 10). The weight of a task is c_i exp(-s_i).

    `parameters()` are the log variances: give them to the optimizer, without weight decay. That of an absent task gets
    no gradient at all, so that no momentum moves it either.

    Args:
        tasks: the names of the tasks.
        regression: the names of those whose loss is a squared error.

    Raises TaskError if `regression` names a task that is not in `tasks`.

    Examples:
        >>> weights = softcache.multitask.Uncertainty(["digit@a", "embedding@a"], regression=["embedding@a"])
        >>> optimizer = torch.optim.Adam(weights.parameters(), lr=0.01)
        >>> losses = {"digit@a": torch.tensor(2.0), "embedding@a": torch.tensor(5.0)}
        >>> float(weights.backward(losses))
        4.5
        >>> optimizer.step()
        >>> {name: round(weight, 3) for name, weight in weights.weights.items()}
        {'digit@a': 0.99, 'embedding@a': 0.495}
    """

    def __init__(self, tasks: Iterable[str], regression: Iterable[str] = ()) -> None:
        super().__init__(tasks)
        squared = task_names(regression) if regression else ()
        named_tasks("regression", squared, self.tasks)
        self._factors = {name: 0.5 if name in squared else 1.0 for name in self.tasks}
        # One parameter for each task: an optimizer skips those without a gradient.
        self.log_variances = nn.ParameterList(nn.Parameter(torch.zeros(())) for _ in self.tasks)

    @property
    def weights(self) -> dict[str, float]:
        return {name: self._factors[name] * math.exp(-s.item()) for name, s in self._by_task().items()}

    def _combine(self, losses: dict[str, torch.Tensor], values: dict[str, float]) -> torch.Tensor:
        by_task = self._by_task()
        terms = []
        for name, loss in losses.items():
            log_variance = by_task[name].to(loss.device)
            terms.append(self._factors[name] * torch.exp(-log_variance) * loss + log_variance / 2)
        return torch.stack(terms).sum()

    def _by_task(self) -> dict[str, nn.Parameter]:
        return dict(zip(self.tasks, self.log_variances, strict=True))

    def _settings(self) -> dict[str, Any]:
        return super()._settings() | {"factors": dict(self._factors)}
