"""Numbers that a user gives."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any

from softcache.arrays import plain
from softcache.errors import TaskError


def finite(name: str, value: Any) -> float:
    """Return a finite number as a float. Raises TaskError for anything else."""
    given = plain(value)
    if not isinstance(given, Real) or isinstance(given, bool) or not math.isfinite(given):
        raise TaskError(f"{name} is {value!r:.100}; expected a finite number")
    return float(given)
