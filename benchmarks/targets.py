"""Soft targets as a cache gives them, from columns in memory."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

import softcache
from softcache.codecs import Codec
from softcache.soft.keys import KnownKeys


def soft(codec: Codec, columns: Mapping[str, torch.Tensor]) -> softcache.SoftTargets:
    """Return rows as a cache gives them."""
    rows = len(next(iter(columns.values())))
    keys = KnownKeys(np.arange(rows), np.zeros(rows, np.int32))
    return softcache.SoftTargets(codec.decoder, columns, torch.ones(rows, dtype=torch.bool), keys)
