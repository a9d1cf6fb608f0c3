"""The shape of tails: what the logits of a target's rows have in common (docs/format.md, section 11.2).

A row's logits, relative to its highest, are approximated by the mean over a pilot of rows plus the pilot's r strongest
principal components. Each row keeps r coefficients of 8 bits.
"""

from __future__ import annotations

import torch

from softcache.codecs.bits import FARTHEST

SHAPE_ZERO, LARGEST = 128, 127
_TINY = 1e-6
_NOISE = 1e-3  # of the whole deviation; weaker components are float32's rounding


def fit_basis(logits: torch.Tensor, rank: int) -> torch.Tensor:
    """Return the mean and the components of a pilot's logits [n, C], float16 [C, 1 + rank].

    Each component is scaled by its deviation. Components that the pilot cannot tell from rounding are zero.
    """
    below = (logits - logits.amax(1, keepdim=True)).clamp(min=-FARTHEST)
    mean = below.mean(0)
    rest = below - mean
    # The n x n products of the rows have the same eigenvalues as the C x C products of the classes.
    few_classes = rest.shape[1] <= rest.shape[0]
    squares, vectors = torch.linalg.eigh((rest.T @ rest if few_classes else rest @ rest.T).double())
    squares, vectors = squares.flip(0)[:rank].clamp(min=0), vectors.flip(1)[:, :rank]
    kept = int((squares.sqrt() > _NOISE * float(squares.sum()) ** 0.5).sum())
    directions = vectors[:, :kept].float()
    if not few_classes:
        directions, _ = torch.linalg.qr(rest.T @ directions)
    components = directions * (squares[:kept] / len(rest)).sqrt().float()
    missing = components.new_zeros(len(mean), rank - kept)
    return torch.cat([mean[:, None], components, missing], 1).half()


def encode_shape(logits: torch.Tensor, highest: torch.Tensor, basis: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return coefficients of logits [B, C] relative to their `highest` [B, 1], uint8 [B, r], and scales, float16 [B].

    No logit is more than 559.9 nats below the highest.
    """
    mean, components = basis[:, 0].float(), basis[:, 1:].float()
    squares = components.square().sum(0)
    # Subtract the highest from the products, which are small: subtracting it from the logits would copy all of them.
    found = (logits @ components - highest * components.sum(0) - mean @ components) / squares.clamp(min=_TINY)
    scale = (found.abs().amax(1) / LARGEST).clamp(max=torch.finfo(torch.float16).max).half()
    steps = (found / scale.float().clamp(min=torch.finfo(torch.float16).tiny)[:, None]).round()
    return (steps.clamp(-LARGEST, LARGEST) + SHAPE_ZERO).to(torch.uint8), scale


def decode_shape(codes: torch.Tensor, scale: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
    """Return the approximate logits of rows relative to their highest, float32 [B, C]."""
    coefficients = (codes.float() - SHAPE_ZERO) * scale.float()[:, None]
    # Autocast would multiply in half precision.
    with torch.autocast(basis.device.type, enabled=False):
        return torch.addmm(basis[:, 0].float(), coefficients, basis[:, 1:].float().T)
