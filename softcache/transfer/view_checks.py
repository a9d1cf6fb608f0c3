"""Checks of views: a checksum, and a sketch that tells rounding from a different view (docs/format.md, section 3.1)."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from softcache.arrays import Array
from softcache.errors import AugmentationError
from softcache.store.checksums import crc32c
from softcache.store.keys import mix
from softcache.transfer.content import array_head, text

CHECK_BYTES = 8
NO_VIEW = bytes(CHECK_BYTES)
_NUMBERS, _APART = 4, 3
_START = crc32c(b"view")
# How far each number moves if a view gets twice as bright: never all of them by a multiple of 256.
_SCALES = np.array([128, 115, 102, 89])
_G = np.uint64(0x9E3779B97F4A7C15)


def check_of(made: Any) -> bytes:
    """Return the check of a view: 8 bytes, never `NO_VIEW`. Raises AugmentationError unless it is numbers or text."""
    parts = _parts(made)
    return _checksum(parts) + _sketch(parts)


def agrees(made: Any, check: bytes, *, exact: bool) -> bool:
    """Whether a check was made from this very view or, unless `exact`, from one that differs only by rounding."""
    parts = _parts(made)
    if _checksum(parts) == check[:4]:
        return True
    if exact:
        return False
    ours, theirs = (np.frombuffer(sketch, np.uint8).astype(np.int16) for sketch in (_sketch(parts), check[4:]))
    apart = np.abs(ours - theirs)
    return bool((np.minimum(apart, 256 - apart) <= _APART).all())


def described(made: Any) -> str:
    """Describe a view for messages: its dtypes and shapes."""
    descriptions = []
    for name, value in _parts(made).items():
        what = "text" if isinstance(value, str) else f"{value.dtype} {list(value.shape)}"
        descriptions.append(f"{name}: {what}" if name else what)
    return ", ".join(descriptions)


def _checksum(parts: dict[str, Array | str]) -> bytes:
    """Return the CRC-32C of a view's bytes."""
    crc = _START
    for name, value in parts.items():
        crc = crc32c(_head(name, value), crc)
        if not isinstance(value, str) and value.size:
            crc = crc32c(value.reshape(-1).view(np.uint8), crc)
    return struct.pack("<I", crc)


def _head(name: str, value: Array | str) -> bytes:
    """Return the encoding of a part, without the numbers of an array."""
    return text(name) + (b"s" + text(value) if isinstance(value, str) else array_head(value.dtype, value.shape))


def _parts(made: Any) -> dict[str, Array | str]:
    named = made if isinstance(made, Mapping) else {"": made}
    return {str(name): _as_array(named[name]) for name in sorted(named, key=str)}


def _as_array(value: Any) -> Array | str:
    """Return a tensor, an image, an array or numbers as an array in C order; return text unchanged."""
    try:
        if isinstance(value, str):
            value.encode()
            return value
        if isinstance(value, torch.Tensor):
            value = value.detach().cpu()
            value = value.float() if value.dtype == torch.bfloat16 else value
        array = np.asarray(value, order="C")
    except (ValueError, TypeError, RuntimeError) as e:
        raise AugmentationError(f"a view is {type(value).__name__}; expected numbers or text: {e}") from e
    if array.dtype.kind not in "biuf":
        raise AugmentationError(f"a view is {type(value).__name__} ({array.dtype}); expected numbers or text")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _sketch(parts: dict[str, Array | str]) -> bytes:
    """Return four numbers that hardly change if a view is rounded differently, but do if it is another view."""
    structure = _START
    for name, value in parts.items():
        structure = crc32c(_head(name, value), structure)
    numbers, unit = _numbers([value for value in parts.values() if not isinstance(value, str)])
    sketch = np.frombuffer(struct.pack("<I", structure), np.uint8).astype(np.float64)
    if len(numbers) and unit:
        sums = (_signs(len(numbers)) @ numbers).astype(np.float64) / np.sqrt(len(numbers))
        sketch = sketch + np.rint(sums) + np.rint(_SCALES * np.log2(unit))
    return np.mod(sketch, 256).astype(np.uint8).tobytes()


def _numbers(arrays: list[Array]) -> tuple[Array, float]:
    """Return all numbers, float32 [n], divided by a unit, and the unit. Numbers that are not finite become 0."""
    if all(a.dtype.kind in "biu" for a in arrays):
        flat = [a.reshape(-1).astype(np.float32) for a in arrays]
        return (flat[0] if len(flat) == 1 else np.concatenate([np.empty(0, np.float32), *flat])), 1.0
    joined = arrays[0].reshape(-1) if len(arrays) == 1 else np.concatenate([a.reshape(-1) for a in arrays])
    if not (np.isfinite(joined.min(initial=0)) and np.isfinite(joined.max(initial=0))):
        joined = np.nan_to_num(joined, posinf=0.0, neginf=0.0)
    unit = max(float(joined.max(initial=0)), -float(joined.min(initial=0))) / 255
    return (joined / unit if unit else joined).astype(np.float32), unit


@lru_cache(maxsize=4)
def _signs(count: int) -> Array:
    """Return pseudo-random signs, -1 or 1, as float32 [4, count]."""
    with np.errstate(over="ignore"):
        hashes = mix(np.arange(count, dtype=np.uint64) + _G)
    bits = hashes >> np.arange(_NUMBERS, dtype=np.uint64)[:, None] & np.uint64(1)
    return (1 - 2 * bits.astype(np.float32)).astype(np.float32)
