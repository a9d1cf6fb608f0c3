"""Hashes and checksums, and the canonical JSON that fingerprints are made of."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import google_crc32c
import numpy as np

BLOCK_BYTES = 262_144


def sha256(data: bytes | memoryview) -> str:
    """Return the SHA-256 of `data` as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def canonical_json(value: Any) -> bytes:
    """Return `value` as canonical JSON (docs/format.md, section 1)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def fingerprint(value: Any) -> str:
    """Return the SHA-256 of `value` as canonical JSON."""
    return sha256(canonical_json(value))


def crc32c(data: bytes | np.ndarray[Any, Any]) -> int:
    """Return the CRC-32C of bytes, or of a read-only uint8 array."""
    return int(google_crc32c.value(data))


def block_checksums(data: bytes) -> list[int]:
    """Return the CRC-32C of each block of `BLOCK_BYTES`, the last one shorter."""
    view = np.frombuffer(data, np.uint8)
    return [crc32c(view[i : i + BLOCK_BYTES]) for i in range(0, len(view), BLOCK_BYTES)]
