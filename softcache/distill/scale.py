"""Vectors without their scale, whatever it is: nothing overflows, and zeros have a value and a gradient."""

from __future__ import annotations

import torch


def scaled(vectors: torch.Tensor, dim: int) -> torch.Tensor:
    """Return vectors along `dim`, each divided by its largest magnitude, which counts as a constant.

    What does not depend on the scale keeps its value and gradient, and its powers cannot overflow. Zeros stay zeros,
    without a gradient. A vector whose numbers are all below 1e-19 (1e-154 in float64) counts as zeros.
    """
    largest = vectors.detach().abs().amax(dim, keepdim=True)
    # Two such factors in a row must leave a finite gradient.
    zero = largest < torch.finfo(vectors.dtype).tiny ** 0.5
    return vectors * torch.where(zero, 0.0, 1 / largest)


def unit(vectors: torch.Tensor, dim: int) -> torch.Tensor:
    """Return vectors along `dim`, each divided by its l2 norm; zeros stay zeros, without a gradient."""
    vectors = scaled(vectors, dim)
    norms = torch.linalg.vector_norm(vectors, dim=dim, keepdim=True)
    return vectors / torch.where(norms == 0, 1.0, norms)
