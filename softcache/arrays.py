"""What arrays are called in annotations, and plain numbers from any of them."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def plain(value: Any) -> Any:
    """Return the Python number or string in a zero-dimensional array or tensor; anything else as it is."""
    return value.item() if getattr(value, "ndim", None) == 0 else value
