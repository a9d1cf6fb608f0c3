"""One span of address space for the same file of every shard of a target.

Shards are mapped one behind the other when they are first touched. One index therefore reaches any row of any shard,
and a batch is one gather, however many shards it touches. Each block of 256 KiB is compared with its CRC-32C when a
process first touches it.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import stat
import struct
import threading
import weakref
from collections import OrderedDict
from typing import Any

import numpy as np

from softcache.arrays import Array
from softcache.errors import FormatError, IntegrityError, StorageError
from softcache.store.checksums import BLOCK_BYTES, BlockChecks, crc32c
from softcache.store.files import Files
from softcache.store.ipc import is_compressed_stream
from softcache.store.live_shards import TargetShards
from softcache.store.shards import own_checksum_bytes

# A shard takes two of the mappings that the kernel allows a process, 65,530 by default: its file, and the gap after it.
MAX_MAPPINGS, EVICTED_AT_ONCE = 28_000, 1_000

_PROT_NONE, _MAP_FIXED = 0, 0x10
_FAILED = ctypes.c_void_p(-1).value
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]

# Held from the first touch of shards until their rows are copied, so that no thread unmaps what another one reads.
MAPPING_LOCK = threading.RLock()
_mapped: OrderedDict[tuple[int, int], weakref.ref[Span]] = OrderedDict()

# No thread is in the middle of mapping when a process forks: the child would find shards half mapped.
os.register_at_fork(
    before=MAPPING_LOCK.acquire, after_in_parent=MAPPING_LOCK.release, after_in_child=MAPPING_LOCK.release
)


class Span:
    """File number `file` of every shard of a target, as one array of bytes.

    Every file begins at a block's boundary, `starts` int64 [shards], in `bytes`, uint8 [total]; block b is the bytes
    from `b * BLOCK_BYTES`. `evictions` counts how often files were unmapped again.
    """

    def __init__(self, files: Files, shards: TargetShards, file: int, *, check: bool = True) -> None:
        self._files, self._shards, self._file = files, shards, file
        blocks = -(-shards.file_bytes[:, file] // BLOCK_BYTES)
        self._ends = np.cumsum(blocks)
        self.starts: Array = (self._ends - blocks) * BLOCK_BYTES
        self._total = int(self._ends[-1]) * BLOCK_BYTES
        self._base = _map(None, self._total, _PROT_NONE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1)
        self._release = weakref.finalize(self, _libc.munmap, self._base, self._total)
        self._release.atexit = False  # a thread may still read while the interpreter exits; the system unmaps
        self.bytes: Array = np.ctypeslib.as_array((ctypes.c_uint8 * self._total).from_address(self._base))
        self._is_mapped = np.zeros(len(blocks), np.bool_)
        self._is_checked = np.full(int(self._ends[-1]), not check)
        self._usable = BlockChecks(int(self._ends[-1]))
        self._wanted: Array = np.empty(0, np.int64)
        self._is_crowded = False
        self.evictions = 0

    def __reduce__(self) -> Any:
        raise TypeError("a span of mapped memory cannot be pickled")

    def touch(self, first: Array, last: Array, shards: Array) -> None:
        """Make the blocks from `first` to `last` (int64 [n] each, ends included) readable and checked.

        No range reaches beyond its file. `shards` are those that the caller is about to read; others may be unmapped.
        Call it with `MAPPING_LOCK` held. Raises IntegrityError for a missing, short or altered file, StorageError after
        `close`.
        """
        if not self._release.alive:
            raise closed(self._files)
        self._wanted, self._is_crowded = shards, False
        self._usable.touch(first, last, self._use_block)

    def close(self) -> None:
        """Unmap every file, for good."""
        with MAPPING_LOCK:
            for key in [key for key in _mapped if key[0] == id(self)]:
                del _mapped[key]
            self.evictions += 1  # so that whoever has touched blocks asks again
            self._release()

    def last_block(self, shards: Array) -> Array:
        """Return the last block of the file of each shard, int64 [n]."""
        return self._ends[shards] - 1

    def _use_block(self, block: int) -> None:
        shard = int(np.searchsorted(self._ends, block, side="right"))
        if not self._is_mapped[shard]:
            self._map(shard)
        if not self._is_checked[block]:
            self._check_block(shard, block)

    def _make_room(self) -> None:
        """Unmap shards that are not wanted now. If all that are mapped are wanted, do not try again for this batch."""
        before = len(_mapped)
        _evict(EVICTED_AT_ONCE, keep=(id(self), set(self._wanted.tolist())))
        self._is_crowded = len(_mapped) == before

    def _map(self, shard: int) -> None:
        where = f"{self._files.url}/{self._shards.path(shard, self._file)}"
        size = int(self._shards.file_bytes[shard, self._file])
        if len(_mapped) >= MAX_MAPPINGS and not self._is_crowded:
            self._make_room()
        try:
            handle = os.open(self._local(shard), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except FileNotFoundError as e:
            raise IntegrityError(f"{where}: missing; run the build again, which makes it again, or restore it") from e
        except OSError as e:
            raise StorageError(f"{where}: {e.strerror}") from e
        try:
            found = os.fstat(handle)
            if not stat.S_ISREG(found.st_mode):
                raise IntegrityError(f"{where}: not a regular file")
            actual = found.st_size
            if actual != size:
                raise IntegrityError(f"{where}: {actual:,} bytes; the manifest says {size:,}")
            if size:
                address = self._base + int(self.starts[shard])
                _map(address, size, mmap.PROT_READ, mmap.MAP_SHARED | _MAP_FIXED, handle)
        finally:
            os.close(handle)
        if where.endswith(".arrow"):
            self._refuse_compressed(shard, where)
        self._is_mapped[shard] = True
        _mapped[id(self), shard] = weakref.ref(self)

    def _refuse_compressed(self, shard: int, where: str) -> None:
        """Raise FormatError if an Arrow file is compressed: its columns are not where the manifest says."""
        begin = int(self.starts[shard])
        if not self._is_checked[begin // BLOCK_BYTES]:
            self._check_block(shard, begin // BLOCK_BYTES)
        size = int(self._shards.file_bytes[shard, self._file])
        try:
            compressed = is_compressed_stream(self.bytes[begin : begin + size].data)
        except (struct.error, IndexError) as e:
            raise FormatError(f"{where}: not an Arrow stream: {e}") from e
        if compressed:
            raise FormatError(f"{where}: compressed; the shards of a softcache cache never are")

    def _local(self, shard: int) -> str:
        shards, file = self._shards, self._file
        return self._files.local(
            shards.path(shard, file), shards.digest(shard, file), int(shards.file_bytes[shard, file])
        )

    def _unmap(self, shard: int) -> None:
        begin, end = int(self.starts[shard]), int(self._ends[shard]) * BLOCK_BYTES
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_FIXED
        _map(self._base + begin, end - begin, _PROT_NONE, flags, -1)
        self._is_mapped[shard] = False
        self._usable.done[begin // BLOCK_BYTES : end // BLOCK_BYTES] = False
        self.evictions += 1

    def _check_block(self, shard: int, block: int, *, again: bool = True) -> None:
        """Compare a block with its checksum. A local copy of a remote file that is damaged is fetched once more."""
        begin, start = block * BLOCK_BYTES, int(self.starts[shard])
        size = int(self._shards.file_bytes[shard, self._file])
        end = start + size - own_checksum_bytes(self._shards.path(shard, self._file))
        data = self.bytes[begin : max(min(begin + BLOCK_BYTES, end), begin)]
        data.flags.writeable = False
        number = (begin - start) // BLOCK_BYTES
        expected = int(self._shards.blocks[int(self._shards.block_starts[shard, self._file]) + number])
        if crc32c(data) != expected:
            if again and self._files.forget_local(self._shards.digest(shard, self._file)):
                self._map(shard)
                self._check_block(shard, block, again=False)
                return
            raise IntegrityError(
                f"{self._files.url}/{self._shards.path(shard, self._file)}: block {number} is not what was written (in "
                f"{self._local(shard)}); run softcache verify, and restore the file, or delete a local copy of it"
            )
        self._is_checked[block] = True


def closed(files: Files) -> StorageError:
    """Return the error for a cache that is read after it has been closed."""
    return StorageError(f"{files.url}: this cache has been closed; open it again")


def _evict(count: int, keep: tuple[int, set[int]]) -> None:
    """Unmap the `count` shards that were mapped first, except those that a span is about to read."""
    for span_id, shard in list(_mapped):
        if count <= 0:
            return
        if span_id == keep[0] and shard in keep[1]:
            continue
        owner = _mapped.pop((span_id, shard))()
        if owner is not None:
            owner._unmap(shard)
        count -= 1


def _map(address: int | None, size: int, protection: int, flags: int, handle: int) -> int:
    result = _libc.mmap(address, size, protection, flags, handle, 0)
    if result is None or result == _FAILED:
        number = ctypes.get_errno()
        hint = "; read rows of fewer shards at a time" if number == errno.ENOMEM and handle != -1 else ""
        raise StorageError(f"mapping {size:,} bytes: {os.strerror(number)}{hint}")
    return int(result)
