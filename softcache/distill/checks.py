"""Settings that a user gives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any

from softcache.arrays import plain
from softcache.errors import TaskError

REDUCTIONS = ("mean", "sum", "none")


def check_choice(name: str, given: str, choices: Sequence[str]) -> None:
    """Raise TaskError if a setting is none of its choices."""
    if given not in choices:
        raise TaskError(f"{name} is {given!r}; expected one of {', '.join(choices)}")


def finite(name: str, value: Any) -> float:
    """Return a finite number as a float. Raises TaskError for anything else."""
    given = plain(value)
    try:
        if isinstance(given, Real) and not isinstance(given, bool) and math.isfinite(given):
            return float(given)
    except OverflowError:  # an integer that no float is near
        pass
    raise TaskError(f"{name} is {value!r:.100}; expected a finite number")
