"""The losses of a batch by task name: which are there, and what they are."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import torch

from softcache.errors import TaskError, name_some

Losses = Mapping[str, torch.Tensor | None]


def task_names(tasks: Iterable[str]) -> tuple[str, ...]:
    """Return the names of the tasks. Raises TaskError if they repeat, are no names, or are none at all."""
    names = tuple(tasks) if isinstance(tasks, Iterable) else ()
    if isinstance(tasks, str) or not names or not all(isinstance(name, str) for name in names):
        raise TaskError(f"tasks are {tasks!r:.100}; expected a list of names, such as ['digit@a', 'digit@b']")
    if len(set(names)) != len(names):
        raise TaskError(f"tasks repeat: {name_some(names)}")
    return names


def named_tasks(what: str, given: Iterable[str], tasks: tuple[str, ...]) -> None:
    """Raise TaskError if something names a task that is unknown."""
    if unknown := [name for name in given if name not in tasks]:
        raise TaskError(f"{what} names unknown tasks {name_some(unknown)}; the tasks are {name_some(tasks)}")


def present_losses(losses: Losses, tasks: tuple[str, ...]) -> dict[str, torch.Tensor]:
    """Return the losses that are there, in the order of the tasks.

    Raises TaskError naming a task that is unknown, or whose loss is not one floating-point number.
    """
    if not isinstance(losses, Mapping):
        raise TaskError(f"the losses are a {type(losses).__name__}; expected a dict by task name")
    if unknown := [name for name in losses if name not in tasks]:
        raise TaskError(f"losses of unknown tasks {name_some(unknown)}; the tasks are {name_some(tasks)}")
    present = {}
    for name in tasks:
        loss = losses.get(name)
        if loss is None:
            continue
        if not isinstance(loss, torch.Tensor) or loss.ndim or not loss.is_floating_point():
            given = f"{loss.dtype} {list(loss.shape)}" if isinstance(loss, torch.Tensor) else f"{loss!r:.50}"
            raise TaskError(f"the loss of {name!r} is {given}; expected a floating-point tensor without dimensions")
        present[name] = loss
    return present


def loss_values(losses: dict[str, torch.Tensor]) -> dict[str, float]:
    """Return the losses as numbers, in one transfer from their device.

    Raises TaskError naming a task whose loss is NaN or infinite.
    """
    values = torch.stack([loss.detach() for loss in losses.values()]).tolist() if losses else []
    found = dict(zip(losses, values, strict=True))
    for name, value in found.items():
        if not math.isfinite(value):
            raise TaskError(f"the loss of {name!r} is {value}; a step with it would spoil the student and the weights")
    return found
