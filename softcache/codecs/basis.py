"""The shape of tails: what the logits of a target's rows have in common (docs/format.md, section 11.2).

A row's logits below its highest are the mean over a pilot of rows and r components, the strongest principal ones of
the pilot; each row keeps r coefficients of 8 bits.
"""

from __future__ import annotations

import torch

from softcache.codecs.bits import FARTHEST

SHAPE_ZERO, LARGEST = 128, 127
_TINY = 1e-6
_NOISE = 1e-3  # of the whole deviation: below, components are float32's rounding


def fit_basis(logits: torch.Tensor, rank: int) -> torch.Tensor:
    """Return the mean and the components of a pilot's logits [n, C], each scaled by its deviation: [C, 1 + rank].

    Components beyond what the pilot tells from rounding are zero.
    """
    below = (logits - logits.amax(1, keepdim=True)).clamp(min=-FARTHEST)
    mean = below.mean(0)
    rest = below - mean
    # Of n rows the n x n products say the same as the C x C ones.
    squares, vectors = torch.linalg.eigh((rest @ rest.T).double())
    squares, vectors = squares.flip(0)[:rank].clamp(min=0), vectors.flip(1)[:, :rank]
    kept = int((squares.sqrt() > _NOISE * float(squares.sum()) ** 0.5).sum())
    directions, _ = torch.linalg.qr(rest.T @ vectors[:, :kept].float())
    components = directions * (squares[:kept] / len(rest)).sqrt().float()
    missing = components.new_zeros(len(mean), rank - kept)
    return torch.cat([mean[:, None], components, missing], 1).half()


def encode_shape(logits: torch.Tensor, highest: torch.Tensor, basis: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the coefficients of logits [B, C] below their `highest` [B, 1]: uint8 [B, r], and the scale float16 [B].

    Logits are not further than 559.9 nats below the highest.
    """
    mean, components = basis[:, 0].float(), basis[:, 1:].float()
    squares = components.square().sum(0)
    # The highest is taken off the products: taking it off the logits would write all of them anew.
    found = (logits @ components - highest * components.sum(0) - mean @ components) / squares.clamp(min=_TINY)
    scale = (found.abs().amax(1) / LARGEST).half()
    steps = (found / scale.float().clamp(min=torch.finfo(torch.float16).tiny)[:, None]).round()
    return (steps.clamp(-LARGEST, LARGEST) + SHAPE_ZERO).to(torch.uint8), scale


def decode_shape(codes: torch.Tensor, scale: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
    """Return what rows' logits below their highest are about, float32 [B, C]."""
    coefficients = (codes.float() - SHAPE_ZERO) * scale.float()[:, None]
    return torch.addmm(basis[:, 0].float(), coefficients, basis[:, 1:].float().T)
