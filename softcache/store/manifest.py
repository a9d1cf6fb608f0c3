"""The manifest: the live shards of one commit (docs/format.md, section 7)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa

from softcache.arrays import Array
from softcache.errors import FormatError
from softcache.store import arrow
from softcache.store.buffers import DTYPES
from softcache.store.checksums import BLOCK_BYTES
from softcache.store.documents import parse
from softcache.store.layout import ROWS, is_split_name, is_target_name
from softcache.store.shards import Shard

_DIGEST = pa.binary(32)


def _required(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


_FILE = pa.struct(
    [
        _required("path", pa.string()),
        _required("bytes", pa.int64()),
        _required("sha256", _DIGEST),
        _required("blocks", pa.list_(_required("item", pa.uint32()))),
    ]
)
_COLUMN = pa.struct(
    [
        _required("name", pa.string()),
        _required("dtype", pa.string()),
        _required("file", pa.int32()),
        _required("offset", pa.int64()),
        _required("bytes", pa.int64()),
    ]
)
_TYPES = {
    "target": pa.string(),
    "split": pa.string(),
    "fragment": pa.int64(),
    "first_view": pa.int32(),
    "views": pa.int32(),
    "first_row": pa.int64(),
    "rows": pa.int64(),
    "unit_key": _DIGEST,
    "keys_sha256": _DIGEST,
    "files": pa.list_(_required("item", _FILE)),
    "columns": pa.list_(_required("item", _COLUMN)),
    "statistics": pa.string(),
}


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


class Manifest:
    """A manifest, opened without reading its table row by row."""

    def __init__(self, data: bytes | pa.Buffer, where: str) -> None:
        """Open a manifest whose hash has been compared; `where` names it in errors. Raises FormatError."""
        self._where = where
        self._batch = arrow.load(data, where)
        types = dict(zip(self._batch.schema.names, self._batch.schema.types, strict=True))
        if any(types.get(name) != kind for name, kind in _TYPES.items()):
            raise FormatError(f"{where}: not a manifest: its columns are {self._batch.schema.names}")

    def targets(self) -> dict[str, TargetShards]:
        """Return the shards of each target by name, checked against those of `rows`. Raises FormatError."""
        found = self._by_target()
        rows = found.get(ROWS)
        if rows is None or rows.first_row[0] != 0 or (rows.first_row[1:] != rows.first_row[:-1] + rows.rows[:-1]).any():
            raise FormatError(f"{self._where}: the shards of rows do not cover all rows from 0 without gap or overlap")
        for shards in found.values():
            self._check_place(shards, rows)
        return found

    def shards_of(self, target: str) -> TargetShards:
        """Return the shards of one target, not checked against those of `rows`."""
        return self._by_target()[target]

    def _by_target(self) -> dict[str, TargetShards]:
        names = self._batch["target"]
        if not len(names):
            return {}
        ends = np.flatnonzero(np.diff(arrow.numbers(names.dictionary_encode().indices))) + 1
        bounds = [0, *ends.tolist(), len(names)]
        found: dict[str, TargetShards] = {}
        for low, high in pairwise(bounds):
            name = names[low].as_py()
            if name in found:
                raise FormatError(f"{self._where}: the shards of {name} are not together")
            found[name] = self._target(name, self._batch.slice(low, high - low))
        return found

    def unit_keys(self) -> set[str]:
        """Return the unit keys of all live shards."""
        return {key.hex() for key in self._batch["unit_key"].to_pylist()}

    def live(self) -> Iterator[LiveShard]:
        """Yield every live shard, in the order of the manifest. Raises FormatError."""
        try:
            for row in self._batch.to_pylist():
                described = {
                    "target": row["target"],
                    "unit_key": row["unit_key"].hex(),
                    "keys_sha256": row["keys_sha256"].hex(),
                    "rows": row["rows"],
                    "files": [f | {"sha256": f["sha256"].hex()} for f in row["files"]],
                    "columns": row["columns"],
                    "statistics": json.loads(row["statistics"]),
                }
                place = {name: row[name] for name in ("split", "fragment", "first_view", "views", "first_row")}
                yield LiveShard(shard=parse(Shard, described, self._where), **place)
        except (TypeError, ValueError, RecursionError) as e:
            raise FormatError(f"{self._where}: not a manifest: {e!r}") from e

    def _target(self, name: str, batch: pa.RecordBatch) -> TargetShards:
        if name != ROWS and not is_target_name(name):
            raise FormatError(f"{self._where}: {name!r:.300} is not the name of a target")
        if bad := [split for split in batch["split"].unique().to_pylist() if not is_split_name(split)]:
            raise self._bad(name, f"{bad[0]!r:.300} is not the name of a split")
        n = batch.num_rows
        files, entries = batch["files"].flatten(), batch["columns"].flatten()
        per_file, per_column = len(files) // n, len(entries) // n
        uniform = (
            (np.diff(arrow.numbers(batch["files"].offsets)) == per_file).all()
            and (np.diff(arrow.numbers(batch["columns"].offsets)) == per_column).all()
            and per_file > 0
        )
        if not uniform:
            raise self._bad(name, "its shards do not have the same files and columns")
        columns = tuple((c["name"], c["dtype"], c["file"]) for c in entries[:per_column].to_pylist())
        others = len(entries) - per_column
        for part in (entries.field(name) for name in ("name", "dtype", "file")):
            if not part.slice(0, others).equals(part.slice(per_column)):
                raise self._bad(name, "its shards do not have the same columns")
        if any(dtype not in DTYPES or not 0 <= file < per_file for _, dtype, file in columns):
            raise self._bad(name, "a column has an unknown dtype or file")
        lists = files.field("blocks")
        starts = arrow.numbers(lists.offsets).astype(np.int64) - lists.offsets[0].as_py()
        counts = np.diff(starts).reshape(n, per_file)
        shards = TargetShards(
            target=name,
            first_row=arrow.numbers(batch["first_row"]),
            rows=arrow.numbers(batch["rows"]),
            fragments=arrow.numbers(batch["fragment"]),
            first_views=arrow.numbers(batch["first_view"]).astype(np.int64),
            views=arrow.numbers(batch["views"]).astype(np.int64),
            keys=batch["keys_sha256"],
            splits=batch["split"],
            paths=files.field("path"),
            digests=files.field("sha256"),
            file_bytes=arrow.numbers(files.field("bytes")).reshape(n, per_file),
            columns=columns,
            offsets=arrow.numbers(entries.field("offset")).reshape(n, per_column),
            sizes=arrow.numbers(entries.field("bytes")).reshape(n, per_column),
            blocks=arrow.numbers(lists.flatten()),
            block_starts=np.concatenate([starts[:-1].reshape(n, per_file), starts[per_file::per_file, None]], axis=1),
        )
        self._check(shards, counts)
        return shards

    def _check(self, s: TargetShards, counts: Array) -> None:
        if (s.rows < 1).any() or (s.first_row < 0).any() or (s.rows > 2**48).any() or (s.first_row > 2**48).any():
            raise self._bad(s.target, "row numbers out of range")
        if (s.first_row[1:] < s.first_row[:-1] + s.rows[:-1]).any():
            raise self._bad(s.target, "shards overlap or are out of order")
        if (s.first_views < 0).any() or (s.views < 1).any() or (s.rows % s.views).any():
            raise self._bad(s.target, "views out of range")
        if (s.file_bytes < 0).any() or (s.file_bytes > 2**50).any():
            raise self._bad(s.target, "file sizes out of range")
        if (s.rows > 8 * s.file_bytes.sum(1)).any():
            raise self._bad(s.target, "more rows than its files have bits")
        if (counts != -(-s.file_bytes // BLOCK_BYTES)).any():
            raise self._bad(s.target, "a file does not have one checksum per block")
        for k, (column, _, file) in enumerate(s.columns):
            offset, size = s.offsets[:, k], s.sizes[:, k]
            if (offset < 0).any() or (size < 0).any() or (offset > s.file_bytes[:, file] - size).any():
                raise self._bad(s.target, f"column {column} lies outside its file")

    def _check_place(self, s: TargetShards, rows: TargetShards) -> None:
        """Raise FormatError unless each shard has the rows, keys and split of its fragment."""
        at = np.searchsorted(rows.first_row, s.first_row).clip(max=len(rows.first_row) - 1)
        same = (rows.first_row[at] == s.first_row) & (rows.rows[at] == s.rows) & (rows.fragments[at] == s.fragments)
        places = pa.Array.from_buffers(pa.int64(), len(at), [None, pa.py_buffer(at)])
        if not same.all() or not rows.keys.take(places).equals(s.keys) or not rows.splits.take(places).equals(s.splits):
            raise self._bad(s.target, "a shard does not have the rows, keys or split of its fragment")

    def _bad(self, target: str, why: str) -> FormatError:
        return FormatError(f"{self._where}: target {target}: {why}")


def dump_manifest(shards: Sequence[LiveShard]) -> memoryview:
    """Return the bytes of the manifest file of `shards`."""
    ordered = sorted(shards, key=lambda s: (s.shard.target, s.first_row))
    rows = [
        {
            "target": s.shard.target,
            "split": s.split,
            "fragment": s.fragment,
            "first_view": s.first_view,
            "views": s.views,
            "first_row": s.first_row,
            "rows": s.shard.rows,
            "unit_key": bytes.fromhex(s.shard.unit_key),
            "keys_sha256": bytes.fromhex(s.shard.keys_sha256),
            "files": [f.to_json() | {"sha256": bytes.fromhex(f.sha256)} for f in s.shard.files],
            "columns": [c.to_json() for c in s.shard.columns],
            "statistics": json.dumps(s.shard.statistics, sort_keys=True),
        }
        for s in ordered
    ]
    return arrow.dump({name: pa.array([r[name] for r in rows], kind) for name, kind in _TYPES.items()})
