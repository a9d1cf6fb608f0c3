"""Hashes and checksums, and the canonical JSON that fingerprints are made of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import Any

import google_crc32c
import numpy as np

from softcache.arrays import Array

Bytes = bytes | memoryview
BLOCK_BYTES = 262_144


def sha256(data: Bytes) -> str:
    """Return the SHA-256 of `data` as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def canonical_json(value: Any) -> bytes:
    """Return `value` as canonical JSON (docs/format.md, section 1)."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def fingerprint(value: Any) -> str:
    """Return the SHA-256 of `value` as canonical JSON."""
    return sha256(canonical_json(value))


def crc32c(data: bytes | Array, before: int = 0) -> int:
    """Return the CRC-32C of bytes, or of an uint8 array, that follow others with the CRC `before`."""
    return int(google_crc32c.extend(before, data))


def block_checksums(data: Bytes | Array, left_out: int = 0) -> list[int]:
    """Return the CRC-32C of each block of `BLOCK_BYTES`, the last one shorter, without `left_out` bytes at the end."""
    view = np.frombuffer(data, np.uint8)
    covered = view[: max(len(view) - left_out, 0)]
    return [crc32c(covered[i : i + BLOCK_BYTES]) for i in range(0, len(view), BLOCK_BYTES)]


class BlockChecks:
    """Which blocks have been compared with their checksums in this process: `done` bool [blocks]."""

    def __init__(self, blocks: int) -> None:
        self.done = np.zeros(blocks, np.bool_)

    def touch(self, first: Array, last: Array, check: Callable[[int], object]) -> None:
        """Call `check` with each block from `first` to `last` (int64 [n] each, ends included) that has not been yet.

        `check` compares a block, by its number, and raises if it is not what was written.
        """
        reach = int((last - first).max(initial=0))
        if reach <= 1 and self.done[first].all() and self.done[last].all():
            return
        for step in range(reach + 1):
            blocks = np.minimum(first + step, last)
            for block in np.unique(blocks[~self.done[blocks]]).tolist():
                check(block)
                self.done[block] = True
