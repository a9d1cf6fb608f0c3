"""Checks of views: an exact checksum, and a sketch that tells rounding from another view (docs/format.md, 3.1)."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from softcache.errors import AugmentationError
from softcache.store.checksums import crc32c
from softcache.store.keys import mix
from softcache.transfer.content import array_head, text

Array = np.ndarray[Any, Any]
CHECK_BYTES = 8
NO_VIEW = bytes(CHECK_BYTES)
_NUMBERS, _APART = 4, 3
_G = np.uint64(0x9E3779B97F4A7C15)


def check_of(made: Any) -> bytes:
    """Return the check of a view: 8 bytes. Raises AugmentationError for what has no bytes."""
    parts = _parts(made)
    return checksum(parts) + _sketch(parts)


def agrees(made: Any, check: bytes, *, exact: bool) -> bool:
    """Whether a view is the one that a check was made of; unless `exact`, or but for rounding."""
    parts = _parts(made)
    if checksum(parts) == check[:4]:
        return True
    if exact:
        return False
    ours, theirs = (np.frombuffer(sketch, np.uint8).astype(np.int16) for sketch in (_sketch(parts), check[4:]))
    apart = np.abs(ours - theirs)
    return bool((np.minimum(apart, 256 - apart) <= _APART).all())


def described(made: Any) -> str:
    """Return what a view is, for messages: dtypes and shapes."""
    found = []
    for name, value in _parts(made).items():
        what = "text" if isinstance(value, str) else f"{value.dtype} {list(value.shape)}"
        found.append(f"{name}: {what}" if name else what)
    return ", ".join(found)


def checksum(parts: dict[str, Array | str]) -> bytes:
    """Return the CRC-32C of a view's bytes."""
    crc = 0
    for name, value in parts.items():
        if isinstance(value, str):
            crc = crc32c(text(name) + b"s" + text(value), crc)
        else:
            crc = crc32c(text(name) + array_head(value.dtype, value.shape), crc)
            crc = crc32c(value.reshape(-1).view(np.uint8), crc) if value.size else crc
    return struct.pack("<I", crc)


def _parts(made: Any) -> dict[str, Array | str]:
    named = made if isinstance(made, Mapping) else {"": made}
    return {str(name): _plain(named[name]) for name in sorted(named)}


def _plain(value: Any) -> Array | str:
    """Return a tensor, an image, an array or numbers as an array in C order; text as it is."""
    if isinstance(value, str):
        return value
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu()
        value = value.view(torch.uint16) if value.dtype == torch.bfloat16 else value.resolve_conj().resolve_neg()
    array = np.ascontiguousarray(value)
    if array.dtype.kind not in "biuf":
        raise AugmentationError(f"a view is {type(value).__name__} ({array.dtype}); expected numbers or text")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _sketch(parts: dict[str, Array | str]) -> bytes:
    arrays = [value for value in parts.values() if not isinstance(value, str)]
    flat = [a.reshape(-1).astype(np.float32) for a in arrays]
    numbers = flat[0] if len(flat) == 1 else np.concatenate([np.empty(0, np.float32), *flat])
    unit = 1.0
    if not all(a.dtype.kind in "biu" for a in arrays):
        if not np.isfinite(numbers.sum()):
            numbers = np.nan_to_num(numbers, posinf=0.0, neginf=0.0)
        unit = max(float(numbers.max(initial=0.0)), -float(numbers.min(initial=0.0))) / 255
    if not len(numbers) or not unit:
        return bytes(_NUMBERS)
    sums = (_signs(len(numbers)) @ numbers).astype(np.float64) / (unit * np.sqrt(len(numbers)))
    sketch: Array = np.rint(sums).astype(np.int64) % 256
    return sketch.astype(np.uint8).tobytes()


@lru_cache(maxsize=4)
def _signs(count: int) -> Array:
    """Return pseudo-random signs, float32 [4, count]."""
    with np.errstate(over="ignore"):
        hashes = mix(np.arange(count, dtype=np.uint64) + _G)
    bits = hashes >> np.arange(_NUMBERS, dtype=np.uint64)[:, None] & np.uint64(1)
    return (1 - 2 * bits.astype(np.float32)).astype(np.float32)
