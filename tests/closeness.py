"""Comparing what is stored with what the live teacher answers."""

from typing import Any

import numpy as np


def close(stored: Any, live: Any) -> None:
    """A teacher's last bits depend on how many rows it answers together, and on the processor."""
    np.testing.assert_allclose(np.asarray(stored), np.asarray(live), rtol=1e-5, atol=1e-6)
