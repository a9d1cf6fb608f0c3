"""FAMO (Liu et al. 2023), as the library torchjd has it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch

from softcache.distill.multitask.losses import Losses, loss_values, present_losses
from softcache.distill.multitask.weights import TaskWeights
from softcache.distill.numbers import finite
from softcache.errors import MissingExtra, TaskError, name_some


class FAMO(TaskWeights):
    """Fast Adaptive Multitask Optimization: weights that let the losses of all tasks fall at the same rate.

    The loss is c * sum_i z_i log(L_i - b_i) with z = softmax(w), and c such that its gradient is a mean of the tasks'
    gradients (Liu, Feng, Stone and Liu 2023). It is torchjd's: `torchjd.scalarization.FAMO`. After the optimizer's step
    call `update` with the losses of the same batch, computed again: it makes a step on w with an Adam of its own. Do
    not give w to another optimizer. The softmax and c go over the tasks that are present; an absent task keeps its w
    and its part of the Adam's state.

    Args:
        tasks: the names of the tasks.
        minimum: b_i by task name, the lowest value that a loss can have; 0 where it is not given.
        lr: the learning rate of the Adam, from 0.
        weight_decay: the weight decay of the Adam, from 0.

    Raises MissingExtra without torchjd, and TaskError for an unknown task, a negative setting, or when called for a
    loss below its minimum.

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
        try:
            from torchjd.scalarization import FAMO as TorchjdFAMO  # noqa: N811 - their class of the same name
        except ImportError as e:
            raise MissingExtra("FAMO needs torchjd: pip install 'softcache[multitask]'") from e
        minimum = dict(minimum or {})
        if unknown := [name for name in minimum if name not in self.tasks]:
            raise TaskError(f"minimum names unknown tasks {name_some(unknown)}; the tasks are {name_some(self.tasks)}")
        self._minimum = {name: finite(f"the minimum of {name!r}", minimum.get(name, 0.0)) for name in self.tasks}
        try:
            self._famo = TorchjdFAMO(len(self.tasks), torch.tensor(list(self._minimum.values())), lr, weight_decay)
        except ValueError as e:
            raise TaskError(str(e)) from e
        self._awaited: tuple[str, ...] = ()

    @property
    def weights(self) -> dict[str, float]:
        return dict(zip(self.tasks, self._logits.detach().softmax(0).tolist(), strict=True))

    def update(self, losses: Losses) -> None:
        """Learn from how far the losses fell: call it after the optimizer's step, with those of the same batch again.

        Raises TaskError if these are not the tasks of the last call, or as a call does.
        """
        present = present_losses(losses, self.tasks)
        self._check_minimum(loss_values(present))
        if tuple(present) != self._awaited:
            raise TaskError(
                f"update got the losses of {name_some(present) or 'no task'}; the last batch had those of "
                f"{name_some(self._awaited) or 'no task'}. Call the weights first, then update with the same tasks"
            )
        if present:
            with self._only(present):
                self._famo.update(self._vector(present))
        self._awaited = ()

    def _combine(self, losses: dict[str, torch.Tensor], values: dict[str, float]) -> torch.Tensor:
        self._check_minimum(values)
        before = self._famo._prev_losses
        with self._only(losses):
            loss: torch.Tensor = self._famo(self._vector(losses))
        if self._learns:
            self._awaited = tuple(losses)
        else:
            self._famo._prev_losses = before
        return loss.to(next(iter(losses.values())).device)

    @property
    def _logits(self) -> torch.nn.Parameter:
        (logits,) = self._famo.parameters()
        return logits

    def _check_minimum(self, values: dict[str, float]) -> None:
        for name, value in values.items():
            if value < self._minimum[name]:
                raise TaskError(
                    f"the loss of {name!r} is {value}, below its minimum {self._minimum[name]}; give minimum="
                )

    def _vector(self, losses: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return the losses of all tasks, [K]; an absent one is such that its logarithm is 0."""
        absent = self._famo.min_losses + 1
        device = self._logits.device
        return torch.stack([losses[n].to(device) if n in losses else absent[i] for i, n in enumerate(self.tasks)])

    @contextmanager
    def _only(self, present: Iterable[str]) -> Iterator[None]:
        """Give the other tasks no weight for a while, after which they have what they had before."""
        absent = torch.tensor([name not in set(present) for name in self.tasks], device=self._logits.device)
        before = {name: tensor.clone() for name, tensor in self._by_task().items()}
        self._logits.data[absent] = -torch.inf
        try:
            yield
        finally:
            for name, tensor in self._by_task().items():
                tensor[absent] = before[name][absent] if name in before else 0.0

    def _by_task(self) -> dict[str, torch.Tensor]:
        """Return the tensors with a number for each task: the logits, and the state of their Adam once it has one."""
        optimizer = self._famo._optimizer
        moments = {} if optimizer is None else optimizer.state[self._logits]
        return {"logits": self._logits.data, **{n: moments[n] for n in ("exp_avg", "exp_avg_sq") if n in moments}}

    def _settings(self) -> dict[str, Any]:
        settings = {"minimum": dict(self._minimum), "lr": self._famo.lr, "weight_decay": self._famo.weight_decay}
        return super()._settings() | settings

    def _state(self) -> dict[str, Any]:
        # torchjd's own state has the logits, but neither their Adam nor the losses before the step.
        optimizer, losses = self._famo._optimizer, self._famo._prev_losses
        return {
            "optimizer": None if optimizer is None else deepcopy(optimizer.state_dict()),
            "losses": None if losses is None else losses.clone(),
            "awaited": list(self._awaited),
        }

    def _load(self, state: dict[str, Any]) -> None:
        self._famo._optimizer = None
        if state["optimizer"] is not None:
            self._famo._optimizer = torch.optim.Adam(
                [self._logits], lr=self._famo.lr, weight_decay=self._famo.weight_decay
            )
            self._famo._optimizer.load_state_dict(state["optimizer"])
        losses = state["losses"]
        self._famo._prev_losses = None if losses is None else losses.to(self._logits.device, copy=True)
        self._awaited = tuple(state["awaited"])
