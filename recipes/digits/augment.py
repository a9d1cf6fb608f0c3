"""A transform that makes views of digits, for builds with `augmentation` (docs/views.md)."""

import numpy as np


def shift(image, rng):
    """Return an image [8, 8] shifted by at most one pixel in each direction; the border is 0."""
    top, left = rng.integers(3, size=2)
    return np.pad(image, 1)[top : top + 8, left : left + 8].copy()
