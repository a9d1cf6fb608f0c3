"""Views of digits, for builds with `augmentation` (docs/views.md)."""

import numpy as np


def shift(image, rng):
    """Move an image of 8 x 8 by at most one pixel."""
    top, left = rng.integers(3, size=2)
    return np.pad(image, 1)[top : top + 8, left : left + 8].copy()
