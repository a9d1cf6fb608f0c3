"""Checks and shapes of what a student gives for a batch: one answer for each row, position or place."""

from __future__ import annotations

import torch

from softcache.errors import TaskError
from softcache.soft.protocol import Soft


def check_logits(student_logits: torch.Tensor, soft: Soft) -> None:
    """Raise TaskError unless a student's logits have the shape that the soft targets need; nothing is broadcast."""
    given, task = list(student_logits.shape), soft.task
    classes = task.label_space
    if task.is_list:
        wide_enough = bool(given) and (given[-1] == classes or (task.traits.has_tokens and given[-1] > classes))
        if len(given) not in (2, 3) or not wide_enough:
            raise TaskError(f"student logits are {given}; expected [{len(soft)}, positions, {classes}]")
    elif given != (expected := [len(soft), classes, *task.shape[1:]]):
        hint = "; resize the student's maps (torch.nn.functional.interpolate)" if task.is_map else ""
        raise TaskError(f"student logits are {given}, the soft targets {expected}; nothing is broadcast{hint}")
    if not student_logits.is_floating_point():
        raise TaskError(f"student logits are {student_logits.dtype}; expected floating-point values")


def refuse_gradients(**given: object) -> None:
    """Raise TaskError for a tensor that is learned: the loss has a gradient for the logits alone."""
    for name, value in given.items():
        if isinstance(value, torch.Tensor) and value.requires_grad and torch.is_grad_enabled():
            raise TaskError(
                f"{name} would get no gradient from this loss, only the logits do; give {name}.detach(), or to learn "
                "it, write the loss from soft.log_probs(temperature), or multiply the rows of reduction='none'"
            )


def read_sample_weights(weights: torch.Tensor | None, soft: Soft, shape: torch.Size) -> torch.Tensor | None:
    """Return the samples' weights for each position, float32 [R]. Raises TaskError for anything but weights [B]."""
    if weights is None:
        return None
    if weights.shape != (len(soft),) or not weights.is_floating_point():
        raise TaskError(
            f"sample_weights are {weights.dtype} {list(weights.shape)}; expected floating-point values [{len(soft)}]"
        )
    return soft.per_position(weights.to(soft.device).float(), shape)


def read_mask(name: str, mask: torch.Tensor, soft: Soft, shape: torch.Size) -> torch.Tensor:
    """Return a mask of a student's positions as bool [R], or with sigmoid perhaps one for each class, [R, C].

    `shape` is that of the logits, classes last. Raises TaskError for any other shape or dtype.
    """
    each = soft.task.activation == "sigmoid"
    if soft.task.is_map and mask.ndim == len(shape):
        mask = mask.movedim(1, -1)
    if mask.dtype == torch.bool and mask.shape == shape[:-1]:
        return mask.to(soft.device).reshape(-1)
    if mask.dtype == torch.bool and mask.shape == shape and each:
        return mask.to(soft.device).flatten(0, -2)
    expected = f"bool {list(shape[:-1])}{f' or {list(shape)}' if each else ''}"
    raise TaskError(f"{name} is {mask.dtype} {list(mask.shape)}; expected {expected}")
