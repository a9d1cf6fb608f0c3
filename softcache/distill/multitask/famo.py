"""FAMO: Fast Adaptive Multitask Optimization (Liu et al. 2023)."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from softcache.distill.checks import finite
from softcache.distill.multitask.learned import Learned
from softcache.distill.multitask.losses import Losses, loss_values, named_tasks, present_losses
from softcache.distill.multitask.weights import TaskWeights, weighted_sum
from softcache.errors import TaskError, name_some

# Keeps the logarithm of a loss at its minimum finite.
_SMALLEST = 1e-8


class FAMO(TaskWeights):
    """Fast Adaptive Multitask Optimization: weights that let the losses of all tasks fall at the same rate.

    The loss is c * sum_i z_i log(L_i - b_i) with z = softmax(w), and c = 1 / sum_i z_i / (L_i - b_i), so that its
    gradient is a mean of the tasks' gradients (Liu, Feng, Stone and Liu 2023, algorithm 1). After the optimizer's step
    call `update` with the losses of the same batch, computed again: an Adam of its own makes a step on w, against how
    far the logarithms of the losses fell. The softmax and the sums go over the tasks that are present; an absent task
    keeps its w and its part of the Adam's state.

    Args:
        tasks: the names of the tasks.
        minimum: b_i by task name, the lowest value that a loss can have; 0 where it is not given.
        lr: the learning rate of the Adam, above 0.
        weight_decay: the weight decay of the Adam, from 0.

    Raises TaskError for an unknown task, another setting, or when called for a loss below its minimum.

    Examples:
        >>> student = torch.nn.Linear(8, 2)
        >>> optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
        >>> weights = softcache.multitask.FAMO(["digit@a", "digit@b"])
        >>> def losses(batch):
        ...     return dict(zip(weights.tasks, student(batch).square().mean(0)))
        >>> batch = torch.randn(4, 8)
        >>> loss = weights.backward(losses(batch))
        >>> optimizer.step()
        >>> weights.update(losses(batch))
        >>> round(sum(weights.weights.values()), 6)
        1.0
    """

    def __init__(
        self,
        tasks: Iterable[str],
        minimum: Mapping[str, float] | None = None,
        lr: float = 0.025,
        weight_decay: float = 1e-3,
    ) -> None:
        super().__init__(tasks)
        self.lr, self.weight_decay = finite("lr", lr), finite("weight_decay", weight_decay)
        if self.lr <= 0 or self.weight_decay < 0:
            raise TaskError(
                f"lr is {lr} and weight_decay is {weight_decay}; expected a learning rate above 0, and a decay from 0"
            )
        given = {} if minimum is None else minimum
        if not isinstance(given, Mapping):
            raise TaskError(f"minimum is {minimum!r:.100}; expected a dict by task name")
        named_tasks("minimum", given, self.tasks)
        self._minimum = {name: finite(f"the minimum of {name!r}", given.get(name, 0.0)) for name in self.tasks}
        self._logits = Learned(self.tasks, 0.0, self.lr, self.weight_decay)
        self._before: dict[str, float] = {}

    @property
    def weights(self) -> dict[str, float]:
        return self._shares(self.tasks)

    def update(self, losses: Losses) -> None:
        """Learn from how far the losses fell: call it after the optimizer's step, with those of the same batch again.

        It belongs to the last call in training mode. Raises TaskError if these are not the tasks of that call, or as a
        call does.
        """
        values = loss_values(present_losses(losses, self.tasks))
        if list(values) != list(self._before):
            raise TaskError(
                f"update got the losses of {name_some(values) or 'no task'}; the last batch had those of "
                f"{name_some(self._before) or 'no task'}. Call the weights first, then update with the same tasks"
            )
        logs, shares = self._logs(values), self._shares(values)
        fell = {name: before - logs[name] for name, before in self._before.items()}
        mean = sum(shares[name] * each for name, each in fell.items())
        self._logits.step({name: shares[name] * (each - mean) for name, each in fell.items()})
        self._before = {}

    def _combine(self, losses: dict[str, torch.Tensor], values: dict[str, float]) -> torch.Tensor:
        logs, shares = self._logs(values), self._shares(values)
        total = sum(shares[name] / math.exp(log) for name, log in logs.items())
        if self._learns:
            self._before = logs
        distances = {name: loss - self._minimum[name] + _SMALLEST for name, loss in losses.items()}
        return weighted_sum(
            {name: distance.log() for name, distance in distances.items()},
            {name: shares[name] / total for name in losses},
        )

    def _shares(self, tasks: Iterable[str]) -> dict[str, float]:
        """Return the softmax of the logits of some tasks."""
        logits = self._logits.numbers
        powers = {name: math.exp(logits[name] - max(logits.values())) for name in tasks}
        return {name: power / sum(powers.values()) for name, power in powers.items()}

    def _logs(self, values: dict[str, float]) -> dict[str, float]:
        """Return log(L_i - b_i). Raises TaskError for a loss below its minimum."""
        for name, value in values.items():
            if value < self._minimum[name]:
                raise TaskError(
                    f"the loss of {name!r} is {value}, below its minimum {self._minimum[name]}; give minimum="
                )
        return {name: math.log(value - self._minimum[name] + _SMALLEST) for name, value in values.items()}

    def _settings(self) -> dict[str, Any]:
        own = {"minimum": dict(self._minimum), "lr": self.lr, "weight_decay": self.weight_decay}
        return super()._settings() | own

    def _state(self) -> dict[str, Any]:
        return {"logits": self._logits.state_dict(), "before": dict(self._before)}

    def _load(self, state: dict[str, Any]) -> None:
        self._logits.load_state_dict(state["logits"])
        self._before = dict(state["before"])
