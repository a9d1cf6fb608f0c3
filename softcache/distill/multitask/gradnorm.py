"""GradNorm (Chen et al. 2018)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch

from softcache.distill.checks import finite
from softcache.distill.multitask.learned import Learned
from softcache.distill.multitask.shared import check_trained, trained
from softcache.distill.multitask.weights import TaskWeights, weighted_sum
from softcache.errors import TaskError

# A step of the optimizer may take a weight below 0, where its loss would be raised. Clamped to this, it can recover.
_SMALLEST = 1e-6


class GradNorm(TaskWeights):
    """GradNorm: weights that bring the gradients of all tasks to a common scale, larger for tasks that learn slowly.

    With G_i the norm of the gradient of w_i L_i with respect to the shared parameters, and r_i the ratio L_i / L_i(0)
    relative to its mean over the tasks, the weights descend on sum_i |G_i - mean(G) r_i^alpha|, in which the second
    term is a constant (Chen et al. 2018, eq. 2). Then they are scaled so that their sum is the number of tasks
    (algorithm 1). L_i(0) is the first loss of a task. An absent task keeps its weight and the state of its optimizer: G
    and r are averaged over the tasks that are present, and these share what the absent ones leave of the sum.

    A call returns the loss for the weights as they are, and then changes them with its own Adam: do not give them to an
    optimizer. It takes one more backward pass for each task, from the loss to the shared parameters.

    Args:
        tasks: the names of the tasks.
        shared: the parameters of the last layer that all tasks share. Frozen ones are left out.
        alpha: the asymmetry, from 0; the more the tasks differ, the larger it should be.
        lr: the learning rate of the weights, above 0.

    Raises TaskError for other settings, no trained shared parameters, and when called for a loss below 0, a first loss
    of 0, a loss that does not depend on the shared parameters, or a gradient that is not finite.

    Examples:
        >>> trunk, heads = torch.nn.Linear(8, 32), {name: torch.nn.Linear(32, 10) for name in ("digit@a", "digit@b")}
        >>> weights = softcache.multitask.GradNorm(heads, trunk.parameters(), alpha=1.5)
        >>> hidden = trunk(torch.randn(3, 8))
        >>> loss = weights({name: head(hidden).square().mean() for name, head in heads.items()})
        >>> loss.backward()
        >>> round(sum(weights.weights.values()), 6)
        2.0
    """

    def __init__(
        self, tasks: Iterable[str], shared: Iterable[torch.nn.Parameter], alpha: float = 1.5, lr: float = 0.025
    ) -> None:
        super().__init__(tasks)
        self.alpha, self.lr = finite("alpha", alpha), finite("lr", lr)
        if self.alpha < 0 or self.lr <= 0:
            raise TaskError(f"alpha is {alpha} and lr is {lr}; expected an alpha from 0, and a learning rate above 0")
        self._shared = trained(shared)
        self._weights = Learned(self.tasks, 1.0, self.lr)
        self._first: dict[str, float] = {}

    @property
    def weights(self) -> dict[str, float]:
        return self._weights.numbers

    def _combine(self, losses: dict[str, torch.Tensor], values: dict[str, float]) -> torch.Tensor:
        combined = weighted_sum(losses, self.weights)
        if self._learns:
            self._update(losses, values)
        return combined

    def _update(self, losses: dict[str, torch.Tensor], values: dict[str, float]) -> None:
        check_trained(losses)
        norms = {name: self._norm(name, loss) for name, loss in losses.items()}
        ratios = self._ratios(values)
        self._weights.step(weight_gradients(self.weights, norms, ratios, self.alpha))
        self._scale(list(losses))

    def _norm(self, name: str, loss: torch.Tensor) -> float:
        """Return the norm of a loss's gradient with respect to the shared parameters."""
        found = torch.autograd.grad(loss, self._shared, retain_graph=True, allow_unused=True)
        gradients = [gradient for gradient in found if gradient is not None]
        if not gradients:
            raise TaskError(f"the loss of {name!r} does not depend on the shared parameters; give those of its trunk")
        norms = [torch.linalg.vector_norm(g, dtype=torch.promote_types(g.dtype, torch.float32)) for g in gradients]
        norm = float(torch.linalg.vector_norm(torch.stack(norms)))
        if not math.isfinite(norm):
            raise TaskError(f"the gradient of the loss of {name!r} has the norm {norm}; GradNorm needs a finite one")
        return norm

    def _ratios(self, values: dict[str, float]) -> dict[str, float]:
        """Return L_i / L_i(0)."""
        for name, value in values.items():
            if value < 0 or (value == 0 and name not in self._first):
                raise TaskError(f"the loss of {name!r} is {value}; GradNorm needs losses from 0, the first above 0")
        self._first = {**values, **self._first}
        return {name: value / self._first[name] for name, value in values.items()}

    def _scale(self, present: list[str]) -> None:
        """Scale the weights of the tasks that are present, so that all weights sum to the number of tasks."""
        weights = {name: max(weight, _SMALLEST) if name in present else weight for name, weight in self.weights.items()}
        left = len(self.tasks) - sum(weight for name, weight in weights.items() if name not in present)
        total = sum(weights[name] for name in present)
        self._weights.set({name: weights[name] * left / total for name in present})

    def _settings(self) -> dict[str, Any]:
        return super()._settings() | {"alpha": self.alpha, "lr": self.lr}

    def _state(self) -> dict[str, Any]:
        return {"weights": self._weights.state_dict(), "first": dict(self._first)}

    def _load(self, state: dict[str, Any]) -> None:
        self._weights.load_state_dict(state["weights"])
        self._first = dict(state["first"])


def weight_gradients(
    weights: dict[str, float], norms: dict[str, float], ratios: dict[str, float], alpha: float
) -> dict[str, float]:
    """Return the derivative of sum_i |w_i n_i - target_i| for each weight, n_i being the norm for a weight of 1."""
    scaled = {name: weights[name] * norm for name, norm in norms.items()}
    mean = sum(scaled.values()) / len(scaled)
    # If all losses are 0, so are all ratios: then they ask for no gradient.
    mean_ratio = sum(ratios.values()) / len(ratios) or 1.0
    targets = {name: mean * (ratio / mean_ratio) ** alpha for name, ratio in ratios.items()}
    return {
        name: norm * ((scaled[name] > targets[name]) - (scaled[name] < targets[name])) for name, norm in norms.items()
    }
