"""Temperatures: what may be given, and how one is applied."""

from __future__ import annotations

import math

import torch

from softcache.errors import TaskError

Temperature = float | torch.Tensor


def check_temperature(temperature: Temperature, rows: int) -> torch.Tensor | float:
    """Return a valid temperature: a float, or float32 of shape [rows].

    Raises TaskError if it is not finite and positive, or its shape is neither [] nor [rows].
    """
    if not isinstance(temperature, torch.Tensor):
        try:
            value = float(temperature)
        except (TypeError, ValueError):
            raise TaskError(f"temperature is {temperature!r}; expected a number above 0, or a tensor of them") from None
        if not (math.isfinite(value) and value > 0):
            raise TaskError(f"temperature is {value}; expected a finite number above 0")
        return value
    if temperature.ndim == 0:
        return check_temperature(float(temperature), rows)
    if temperature.shape != (rows,):
        raise TaskError(f"temperature has shape {list(temperature.shape)}; expected a number or [{rows}], one per row")
    result = temperature.float()
    if not bool((torch.isfinite(result) & (result > 0)).all()):
        raise TaskError("a temperature in the batch is not a finite number above 0")
    return result


def temper(log_values: torch.Tensor, temperature: Temperature) -> torch.Tensor:
    """Return log_softmax(log_values / T) over the last axis, float32 of the same shape.

    The softened distribution of Hinton, Vinyals and Dean 2015, eq. 1. `log_values` [B, ..., C] are logits or log
    probabilities; T is a number or [B].
    """
    t = check_temperature(temperature, log_values.shape[0])
    if isinstance(t, torch.Tensor):
        t = t.to(log_values.device).view(-1, *(1,) * (log_values.ndim - 1))
    values = log_values.float()
    # Relative to the largest, so that no temperature, however small, makes infinities meet.
    return torch.log_softmax((values - values.amax(dim=-1, keepdim=True)) / t, dim=-1)


def inverse_temperatures(temperature: Temperature, rows: int, device: torch.device) -> torch.Tensor:
    """Return 1 / T as float32 [rows, 1] or, where all rows have one T, [1, 1]. Raises as `check_temperature`."""
    t = check_temperature(temperature, rows)
    return 1 / torch.as_tensor(t, dtype=torch.float32, device=device).view(-1, 1)
