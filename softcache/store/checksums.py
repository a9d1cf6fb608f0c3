"""Hashes and checksums, and the canonical JSON that fingerprints hash."""

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
    """Return the CRC-32C of bytes or of a uint8 array, continuing from `before`, the CRC of the bytes before them."""
    return int(google_crc32c.extend(before, data))


def block_checksums(data: Bytes | Array, left_out: int = 0) -> list[int]:
    """Return the CRC-32C of each block of `BLOCK_BYTES`; the last block may be shorter.

    The last `left_out` bytes of `data` are not covered.
    """
    view = np.frombuffer(data, np.uint8)
    covered = view[: max(len(view) - left_out, 0)]
    return [crc32c(covered[i : i + BLOCK_BYTES]) for i in range(0, len(view), BLOCK_BYTES)]


class BlockChecks:
    """A record of the blocks that this process has compared with their checksums: `done`, bool [blocks]."""

    def __init__(self, blocks: int) -> None:
        self.done = np.zeros(blocks, np.bool_)

    def touch(self, first: Array, last: Array, check: Callable[[int], object]) -> None:
        """Call `check` with the number of each block in n ranges that has not been checked yet.

        Range i goes from `first[i]` to `last[i]`, ends included; both are int64 [n]. `check` raises if the block is not
        what was written.
        """
        reach = int((last - first).max(initial=0))
        if reach <= 1 and self.done[first].all() and self.done[last].all():
            return
        for step in range(reach + 1):
            blocks = np.minimum(first + step, last)
            for block in np.unique(blocks[~self.done[blocks]]).tolist():
                check(block)
                self.done[block] = True
