"""Temperatures: what may be given, and how one is applied."""

from __future__ import annotations

import torch

from softcache.errors import TaskError

Temperature = float | torch.Tensor
# The square of this is still finite in float32.
HIGHEST = 1e9


def check_temperature(temperature: Temperature, rows: int) -> torch.Tensor | float:
    """Return a valid temperature: a float, or float32 of shape [rows].

    Raises TaskError if it is not finite and positive, or its shape is neither [] nor [rows].
    """
    if not isinstance(temperature, torch.Tensor):
        try:
            value = float(temperature)
        except (TypeError, ValueError):
            raise TaskError(f"temperature is {temperature!r}; expected a number above 0, or a tensor of them") from None
        if not 0 < value <= HIGHEST:
            raise TaskError(f"temperature is {value}; expected a finite number above 0, at most {HIGHEST:g}")
        return value
    if temperature.ndim == 0:
        return check_temperature(float(temperature), rows)
    if temperature.shape != (rows,):
        raise TaskError(f"temperature has shape {list(temperature.shape)}; expected a number or [{rows}], one per row")
    result = temperature.float()
    if not bool(((result > 0) & (result <= HIGHEST)).all()):
        raise TaskError(f"a temperature in the batch is not a finite number above 0, at most {HIGHEST:g}")
    return result


def temper(log_values: torch.Tensor, temperature: Temperature) -> torch.Tensor:
    """Return log_softmax(log_values / T) over the classes, float32 of the same shape.

    The softened distribution of Hinton, Vinyals and Dean 2015, eq. 1. `log_values` [B, C, ...] are logits or log
    probabilities; T is a number or [B].
    """
    values, t = _with_temperature(log_values, temperature)
    return torch.log_softmax(divided(values, t, lowest_temperature(temperature)), dim=1)


def divided(values: torch.Tensor, t: torch.Tensor | float, lowest: float) -> torch.Tensor:
    """Return values [B, C, ...] / T up to a constant for each row. `lowest` is the lowest of the temperatures.

    Below T = 1 large values could become infinities, and two of them a NaN: the values are then taken relative to the
    largest.
    """
    return values / t if lowest >= 1 else (values - values.detach().amax(dim=1, keepdim=True)) / t


def lowest_temperature(temperature: Temperature) -> float:
    """Return the lowest of valid temperatures."""
    if not isinstance(temperature, torch.Tensor):
        return float(temperature)
    return float(temperature.min()) if temperature.numel() else 1.0


def temper_each(logits: torch.Tensor, temperature: Temperature) -> torch.Tensor:
    """Return log sigmoid(logits / T), float32 of the same shape, for each class independently; T is a number or [B].

    `logits` are [B, C, ...]. It is the softened distribution of Hinton et al. 2015 over two classes, whose logits are 0
    and z.
    """
    values, t = _with_temperature(logits, temperature)
    return torch.nn.functional.logsigmoid(values / t)


def _with_temperature(values: torch.Tensor, temperature: Temperature) -> tuple[torch.Tensor, torch.Tensor | float]:
    """Return values [B, ...] as float32, and a valid temperature that can divide them."""
    t = check_temperature(temperature, values.shape[0])
    if isinstance(t, torch.Tensor):
        t = t.to(values.device).view(-1, *(1,) * (values.ndim - 1))
    return values.float(), t


def inverse_temperatures(temperature: Temperature, rows: int, device: torch.device) -> torch.Tensor:
    """Return 1 / T as float32 [rows, 1], or [1, 1] if all rows have one T. Raises as `check_temperature`."""
    t = check_temperature(temperature, rows)
    return 1 / torch.as_tensor(t, dtype=torch.float32, device=device).view(-1, 1)
