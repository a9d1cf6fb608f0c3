"""Task weights: what all rules that make one loss of several tasks' losses have in common."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import nn

from softcache.distill.multitask.losses import Losses, loss_values, present_losses, task_names
from softcache.distill.saved import check_same
from softcache.errors import TaskError


class TaskWeights(nn.Module, ABC):
    """Weights of several tasks, made with the tasks' names. The base of all rules.

    Called with the losses of a batch by task name, it returns one loss. A task that is left out or None is absent: it
    adds nothing to the loss, and its own weight keeps its state. If all tasks are absent, the loss is a 0 without
    effect, of which `backward()` may be called.

    Weights change only in training mode and with gradients enabled, so that a validation loop has no effect.
    `state_dict` has all of their state, as plain values and tensors; `load_state_dict` refuses that of another rule,
    other tasks or other settings with a TaskError. A call waits once for the losses' device, to check them. In
    distributed training each process weighs its own losses.

    Raises TaskError naming the task if a name is unknown, or a loss is not one finite floating-point number.

    Examples:
        >>> weights: softcache.multitask.TaskWeights = softcache.multitask.DWA(["digit@a", "digit@b"])
        >>> loss = weights({"digit@a": torch.tensor(1.5, requires_grad=True), "digit@b": None})
        >>> loss.item()
        1.5
        >>> weights.weights
        {'digit@a': 1.0, 'digit@b': 1.0}
    """

    def __init__(self, tasks: Iterable[str]) -> None:
        super().__init__()
        self.tasks = task_names(tasks)
        self.register_load_state_dict_pre_hook(_check_state)  # type: ignore[no-untyped-call]

    def forward(self, losses: Losses) -> torch.Tensor:
        """Return one loss for a batch's losses, each a floating-point tensor without dimensions, or None."""
        present = present_losses(losses, self.tasks)
        values = loss_values(present)
        return self._combine(present, values) if present else torch.zeros((), requires_grad=True)

    def backward(self, losses: Losses) -> torch.Tensor:
        """Combine the losses and call `backward()` of the result. Returns it, detached, for the log.

        Raises TaskError if no loss has a gradient, and as a call does.
        """
        loss: torch.Tensor = self(losses)
        if not loss.requires_grad:
            raise TaskError("no loss has a gradient; compute them with gradients enabled, not detached")
        loss.backward()  # type: ignore[no-untyped-call]
        return loss.detach()

    @property
    @abstractmethod
    def weights(self) -> dict[str, float]:
        """The weights as they are now, by task name, for the log."""

    def end_epoch(self) -> None:
        """Say that an epoch is over. Only `DWA` does anything then."""

    def get_extra_state(self) -> dict[str, Any]:
        return {"settings": self._settings(), "state": self._state()}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self._load(state["state"])

    @property
    def _learns(self) -> bool:
        """Whether a call may change the weights."""
        return self.training and torch.is_grad_enabled()

    @abstractmethod
    def _combine(self, losses: dict[str, torch.Tensor], values: dict[str, float]) -> torch.Tensor:
        """Return one loss for those that are there, which are at least one; `values` are the same as numbers."""

    def _settings(self) -> dict[str, Any]:
        """What a state must agree on with the weights that load it."""
        return {"rule": type(self).__name__, "tasks": list(self.tasks)}

    def _state(self) -> dict[str, Any]:
        """What changes while training, besides parameters."""
        return {}

    def _load(self, state: dict[str, Any]) -> None:
        """Take over what `_state` returned."""


def weighted_sum(losses: dict[str, torch.Tensor], weights: Mapping[str, float | torch.Tensor]) -> torch.Tensor:
    """Return the sum of the losses, each times its task's weight."""
    return torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()


def _check_state(weights: nn.Module, state_dict: dict[str, Any], prefix: str, *_: Any) -> None:
    """Refuse a state of other weights, before anything of it is loaded. torch reports one that is not there."""
    assert isinstance(weights, TaskWeights)
    if (saved := state_dict.get(f"{prefix}_extra_state")) is not None:
        settings = saved.get("settings") if isinstance(saved, dict) else saved
        check_same("rule of task weights", settings, weights._settings())
