"""Dynamic Weight Average (Liu, Johns and Davison 2019)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from softcache.distill.checks import finite
from softcache.distill.multitask.weights import TaskWeights, weighted_sum
from softcache.errors import TaskError


class DWA(TaskWeights):
    """Dynamic Weight Average: more weight to tasks whose losses fall more slowly.

    With K tasks, the weight of task k in epoch t is K exp(w_k / T) / sum_i exp(w_i / T), where w_k = L_k(t - 1) /
    L_k(t - 2) is the ratio of its average losses in the last two epochs (Liu, Johns and Davison 2019, "Dynamic Weight
    Average"). A task with fewer than two averages has w_k = 1.

    Call `end_epoch()` after each epoch. An average is over the batches in which the task was present; an epoch without
    any leaves the task's averages as they were. Losses must be above 0 on average: pass None, not a loss of 0, for a
    task of which nothing counts in a batch.

    Args:
        tasks: the names of the tasks.
        temperature: T, above 0; the higher, the more even the weights. The paper uses 2.

    Raises TaskError for another temperature, and in `end_epoch` for an average that is not above 0.

    Examples:
        >>> weights = softcache.multitask.DWA(["digit@a", "digit@b"])
        >>> for a, b in [(4.0, 4.0), (2.0, 3.0)]:  # the average losses of two epochs
        ...     loss = weights({"digit@a": torch.tensor(a), "digit@b": torch.tensor(b)})
        ...     weights.end_epoch()
        >>> {name: round(weight, 3) for name, weight in weights.weights.items()}
        {'digit@a': 0.938, 'digit@b': 1.062}
    """

    def __init__(self, tasks: Iterable[str], temperature: float = 2.0) -> None:
        super().__init__(tasks)
        self.temperature = finite("temperature", temperature)
        if self.temperature <= 0:
            raise TaskError(f"temperature is {temperature}; expected a number above 0")
        self._sums = dict.fromkeys(self.tasks, 0.0)
        self._batches = dict.fromkeys(self.tasks, 0)
        self._averages: dict[str, list[float]] = {name: [] for name in self.tasks}

    @property
    def weights(self) -> dict[str, float]:
        ratios = [last[1] / last[0] if len(last) == 2 else 1.0 for last in self._averages.values()]
        shares = (torch.tensor(ratios, dtype=torch.float64) / self.temperature).softmax(0)
        return dict(zip(self.tasks, (len(self.tasks) * shares).tolist(), strict=True))

    def end_epoch(self) -> None:
        """Take over the averages of the epoch that ends. Raises TaskError if one is not above 0."""
        averages = {name: self._sums[name] / count for name, count in self._batches.items() if count}
        for name, average in averages.items():
            if average <= 0:
                raise TaskError(
                    f"the average loss of {name!r} is {average}, and DWA divides by it; expected a number above 0. "
                    "Pass None for a task of which nothing counts in a batch"
                )
        for name, average in averages.items():
            self._averages[name] = [*self._averages[name], average][-2:]
        self._sums = dict.fromkeys(self.tasks, 0.0)
        self._batches = dict.fromkeys(self.tasks, 0)

    def _combine(self, losses: dict[str, torch.Tensor], values: dict[str, float]) -> torch.Tensor:
        if self._learns:
            for name, value in values.items():
                self._sums[name] += value
                self._batches[name] += 1
        return weighted_sum(losses, self.weights)

    def _settings(self) -> dict[str, Any]:
        return super()._settings() | {"temperature": self.temperature}

    def _state(self) -> dict[str, Any]:
        averages = {name: list(last) for name, last in self._averages.items()}
        return {"sums": dict(self._sums), "batches": dict(self._batches), "averages": averages}

    def _load(self, state: dict[str, Any]) -> None:
        self._sums, self._batches = dict(state["sums"]), dict(state["batches"])
        self._averages = {name: list(last) for name, last in state["averages"].items()}
