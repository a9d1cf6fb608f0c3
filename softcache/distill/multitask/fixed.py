"""Weights that do not change."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from softcache.distill.checks import finite
from softcache.distill.multitask.weights import TaskWeights, weighted_sum
from softcache.errors import TaskError


class Fixed(TaskWeights):
    """The weighted sum of the losses with weights that do not change: sum of w_i L_i.

    Args:
        weights: a number from 0 for each task, by task name.

    Raises TaskError for anything else.

    Examples:
        >>> weights = softcache.multitask.Fixed({"digit@a": 1.0, "embedding@a": 0.1})
        >>> float(weights({"digit@a": torch.tensor(2.0), "embedding@a": torch.tensor(5.0)}))
        2.5
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        if not isinstance(weights, Mapping):
            raise TaskError(f"weights are {weights!r:.100}; expected a dict of numbers by task name")
        super().__init__(weights)
        self._weights = {name: finite(f"the weight of {name!r}", weight) for name, weight in weights.items()}
        for name, weight in self._weights.items():
            if weight < 0:
                raise TaskError(f"the weight of {name!r} is {weight}; expected a number from 0")

    @property
    def weights(self) -> dict[str, float]:
        return dict(self._weights)

    def _combine(self, losses: dict[str, torch.Tensor], values: dict[str, float]) -> torch.Tensor:
        return weighted_sum(losses, self._weights)

    def _settings(self) -> dict[str, Any]:
        return super()._settings() | {"weights": self.weights}
