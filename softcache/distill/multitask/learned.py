"""Numbers of tasks that a rule learns by itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from typing import Any

import torch


class Learned:
    """One float64 for each task, with an Adam of its own. An absent task keeps its number and its part of the Adam."""

    def __init__(self, tasks: Iterable[str], start: float, lr: float, weight_decay: float = 0.0) -> None:
        # One tensor for each task: the optimizer skips those without a gradient.
        self._numbers = {name: torch.full((), start, dtype=torch.float64) for name in tasks}
        self._optimizer = torch.optim.Adam(self._numbers.values(), lr=lr, weight_decay=weight_decay)

    @property
    def numbers(self) -> dict[str, float]:
        """The numbers as they are now, by task name."""
        return {name: float(number) for name, number in self._numbers.items()}

    def step(self, gradients: Mapping[str, float]) -> None:
        """Let the Adam make a step on the numbers of some tasks."""
        for name, gradient in gradients.items():
            self._numbers[name].grad = torch.tensor(gradient, dtype=torch.float64)
        self._optimizer.step()
        self._optimizer.zero_grad()

    def set(self, numbers: Mapping[str, float]) -> None:
        """Replace the numbers of some tasks."""
        for name, number in numbers.items():
            self._numbers[name].fill_(number)

    def state_dict(self) -> dict[str, Any]:
        """Return the numbers and the state of the Adam, which further steps leave as they are."""
        return {"numbers": self.numbers, "optimizer": deepcopy(self._optimizer.state_dict())}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state, of which a copy is made: torch's optimizers would train the given tensors."""
        self.set(state["numbers"])
        self._optimizer.load_state_dict(deepcopy(state["optimizer"]))
