"""Distributions given by some of their classes and the mass of the others."""

from __future__ import annotations

from typing import NamedTuple

import torch


class SparseLogProbs(NamedTuple):
    """B distributions over C classes at one temperature, each by k of its classes and the mass of the others.

    Attributes:
        ids: class numbers, int64 [B, k], without repeats in a row.
        log_probs: their log p(T), float32 [B, k].
        log_tail: the log of the mass of all other classes, float32 [B]; -inf where there is none.
    """

    ids: torch.Tensor
    log_probs: torch.Tensor
    log_tail: torch.Tensor
