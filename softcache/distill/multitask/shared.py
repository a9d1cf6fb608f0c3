"""The parameters that the tasks of a student share."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from softcache.errors import TaskError


def trained(shared: Iterable[torch.nn.Parameter]) -> list[torch.nn.Parameter]:
    """Return the shared parameters that are trained, each once. Raises TaskError if there are none."""
    given = list(shared) if isinstance(shared, Iterable) and not isinstance(shared, torch.Tensor) else []
    found = [p for p in dict.fromkeys(given) if isinstance(p, torch.Tensor) and p.requires_grad]
    if not found:
        raise TaskError("shared has no parameters that are trained; give those of shared layers, as layer.parameters()")
    return found


def check_trained(losses: dict[str, torch.Tensor]) -> None:
    """Raise TaskError naming a task whose loss has no gradient."""
    for name, loss in losses.items():
        if not loss.requires_grad:
            raise TaskError(f"the loss of {name!r} has no gradient; compute it with gradients enabled, not detached")
