"""scikit-learn's 1,797 handwritten digits (8 x 8 pixels, values 0 to 16), as a transfer set."""

from typing import Any

import numpy as np
from sklearn.datasets import load_digits


def digits() -> dict[str, Any]:
    """Return ids int64 [1797], images uint8 [1797, 8, 8] and labels int64 [1797]."""
    data = load_digits()
    return {
        "id": np.arange(len(data.target)),
        "image": data.images.astype(np.uint8),
        "label": data.target.astype(np.int64),
    }


def is_test(ids: np.ndarray) -> np.ndarray:
    """Return which samples neither teachers nor students train on, bool [n]: every third id."""
    return ids % 3 == 2
