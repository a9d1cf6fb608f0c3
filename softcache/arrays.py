"""The type of arrays in annotations, and the plain number inside an array."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def plain(value: Any) -> Any:
    """Return the Python number or string in a zero-dimensional array or tensor; return anything else unchanged."""
    return value.item() if getattr(value, "ndim", None) == 0 else value
