"""Values of a task as logits, and logits at a temperature."""

from __future__ import annotations

import torch

from softcache.codecs.temperature import Temperature, temper, temper_each
from softcache.errors import TaskError
from softcache.tasks import TaskSpec


def as_logits(values: torch.Tensor, task: TaskSpec) -> torch.Tensor:
    """Return values of a task as logits, float32.

    Probabilities become their logs, or with sigmoid log(p / (1 - p)). Log-probabilities are logits already.
    """
    values = values.detach().float()
    if task.value_kind != "probs":
        return values
    return values.log() if task.activation == "softmax" else torch.logit(values)


def tempered(logits: torch.Tensor, task: TaskSpec, temperature: Temperature) -> torch.Tensor:
    """Return log p(T), float32, of logits [B, C, ...] of a task that has a temperature."""
    return temper(logits, temperature) if task.activation == "softmax" else temper_each(logits, temperature)


def log_probs_of(values: torch.Tensor, task: TaskSpec, temperature: Temperature) -> torch.Tensor:
    """Return log p(T), float32, of values [B, C, ...] of a task. Raises TaskError if the task has no temperature."""
    if not task.has_temperature:
        raise TaskError(f"a {task.kind} target has no temperature; use .values")
    return tempered(as_logits(values, task), task, temperature)


def map_items(values: torch.Tensor) -> torch.Tensor:
    """Return the items of maps [B, C, H, W], one place after the other: [B * H * W, C]."""
    return values.movedim(1, -1).flatten(0, -2)
