"""The live shards of one target: one at a time, or all of them as arrays."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from softcache.arrays import Array
from softcache.store.shards import Shard


@dataclass(frozen=True, kw_only=True)
class LiveShard:
    """A shard and its place in the cache: its split, fragment, views and first row."""

    shard: Shard
    split: str
    fragment: int
    first_view: int
    views: int
    first_row: int


@dataclass(frozen=True, eq=False, kw_only=True)
class TargetShards:
    """All live shards of one target as arrays, ordered by first row.

    For n shards with F files and K columns each: `first_row`, `rows`, `fragments`, `first_views` and `views` are int64
    [n]; `keys` (keys hashes) and `splits` are Arrow arrays [n]; `paths` and `digests` are Arrow arrays [n * F], one
    shard after the other; `file_bytes` is int64 [n, F]; `columns` has K entries (name, dtype, position of the file);
    `offsets` and `sizes`, in bytes, are int64 [n, K]. The block checksums of file f of shard i are
    `blocks[block_starts[i, f] : block_starts[i, f + 1]]`, where `block_starts` is int64 [n, F + 1].
    """

    target: str
    first_row: Array
    rows: Array
    fragments: Array
    first_views: Array
    views: Array
    keys: pa.Array
    splits: pa.Array
    paths: pa.Array
    digests: pa.Array
    file_bytes: Array
    columns: tuple[tuple[str, str, int], ...]
    offsets: Array
    sizes: Array
    blocks: Array
    block_starts: Array

    @property
    def end(self) -> int:
        """One past the last row."""
        return int(self.first_row[-1] + self.rows[-1]) if len(self.rows) else 0

    def column(self, name: str) -> int | None:
        """Return the position of a column in `columns`, None if it is not listed."""
        return next((k for k, (n, _, _) in enumerate(self.columns) if n == name), None)

    def path(self, shard: int, file: int) -> str:
        """Return a file's path inside the cache. The path is not checked."""
        return str(self.paths[shard * self.file_bytes.shape[1] + file].as_py())

    def digest(self, shard: int, file: int) -> str:
        """Return a file's SHA-256."""
        return bytes(self.digests[shard * self.file_bytes.shape[1] + file].as_py()).hex()
