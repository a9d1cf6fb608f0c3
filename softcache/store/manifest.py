"""Manifests: a target and its live shards (docs/format.md, section 7)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from softcache.arrays import Array
from softcache.errors import FormatError
from softcache.measures import Statistics
from softcache.store import arrow
from softcache.store.buffers import DTYPES
from softcache.store.checksums import BLOCK_BYTES, canonical_json
from softcache.store.declarations import TargetDeclaration
from softcache.store.documents import load_object, parse
from softcache.store.layout import check_path, is_split_name
from softcache.store.live_shards import LiveShard, TargetShards
from softcache.store.shards import CheckedFile, Shard

_NAME, _RECORD = b"softcache.target", b"softcache.record"
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
class CommittedTarget:
    """What a commit says about one target (docs/format.md, section 7)."""

    declaration: TargetDeclaration
    fingerprint: str
    versions: dict[str, str]
    rows: int
    valid: int
    bytes: int
    statistics: Statistics
    skipped: list[list[Any]]
    skipped_rows: int
    tables: dict[str, CheckedFile]

    def to_json(self) -> dict[str, Any]:
        """Return the target as its manifest holds it."""
        return vars(self) | {"tables": {name: table.to_json() for name, table in self.tables.items()}}


class Manifest:
    """A manifest, opened without reading its table row by row."""

    def __init__(self, data: bytes | pa.Buffer, target: str, where: str) -> None:
        """Open a manifest whose hash has been compared; `where` names it in errors.

        Raises FormatError if it is not the manifest of `target`.
        """
        self._target, self._where = target, where
        self._batch = arrow.load(data, where)
        types = dict(zip(self._batch.schema.names, self._batch.schema.types, strict=True))
        if any(types.get(name) != kind for name, kind in _TYPES.items()) or not self._batch.num_rows:
            raise FormatError(f"{where}: not a manifest: its columns are {self._batch.schema.names}")
        self._metadata = self._batch.schema.metadata or {}
        if (named := self._metadata.get(_NAME, b"")) != target.encode():
            raise FormatError(f"{where}: the manifest of {named!r:.300}, not of {target}")

    def committed(self) -> CommittedTarget:
        """Return what the commit says about the target, which is not `rows`. Raises FormatError."""
        return parse(CommittedTarget, load_object(self._metadata.get(_RECORD, b"{}"), self._where), self._where)

    def first_files(self) -> list[tuple[str, str]]:
        """Return the split of each shard, and the path of its first file. Raises FormatError for bad ones."""
        files = self._batch["files"]
        begins, counts = arrow.numbers(files.offsets)[:-1], np.diff(arrow.numbers(files.offsets))
        if not counts.all():
            raise self._bad("a shard has no files")
        paths = files.values.field("path").take(pa.array(begins)).to_pylist()
        self._check_splits()
        splits = self._batch["split"].to_pylist()
        return [(split, check_path(path)) for split, path in zip(splits, paths, strict=True)]

    def unit_keys(self) -> set[str]:
        """Return the unit keys of all live shards."""
        return {key.hex() for key in self._batch["unit_key"].to_pylist()}

    def live(self) -> Iterator[LiveShard]:
        """Yield every live shard, in the order of the manifest. Raises FormatError."""
        try:
            for row in self._batch.to_pylist():
                described = {
                    "target": self._target,
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

    def shards(self) -> TargetShards:
        """Return the shards as arrays. Raises FormatError."""
        batch = self._batch
        self._check_splits()
        n = batch.num_rows
        files, entries = batch["files"].flatten(), batch["columns"].flatten()
        per_file, per_column = len(files) // n, len(entries) // n
        uniform = (
            (np.diff(arrow.numbers(batch["files"].offsets)) == per_file).all()
            and (np.diff(arrow.numbers(batch["columns"].offsets)) == per_column).all()
            and per_file > 0
        )
        if not uniform:
            raise self._bad("its shards do not have the same files and columns")
        columns = tuple((c["name"], c["dtype"], c["file"]) for c in entries[:per_column].to_pylist())
        others = len(entries) - per_column
        for part in (entries.field(name) for name in ("name", "dtype", "file")):
            if not part.slice(0, others).equals(part.slice(per_column)):
                raise self._bad("its shards do not have the same columns")
        if any(dtype not in DTYPES or not 0 <= file < per_file for _, dtype, file in columns):
            raise self._bad("a column has an unknown dtype or file")
        lists = files.field("blocks")
        starts = arrow.numbers(lists.offsets).astype(np.int64) - lists.offsets[0].as_py()
        counts = np.diff(starts).reshape(n, per_file)
        shards = TargetShards(
            target=self._target,
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
            raise self._bad("row numbers out of range")
        if (s.first_row[1:] < s.first_row[:-1] + s.rows[:-1]).any():
            raise self._bad("shards overlap or are out of order")
        if (s.first_views < 0).any() or (s.views < 1).any() or (s.rows % s.views).any():
            raise self._bad("views out of range")
        if (s.file_bytes < 0).any() or (s.file_bytes > 2**50).any():
            raise self._bad("file sizes out of range")
        if (s.rows > 8 * s.file_bytes.sum(1)).any():
            raise self._bad("more rows than its files have bits")
        if (counts != -(-s.file_bytes // BLOCK_BYTES)).any():
            raise self._bad("a file does not have one checksum per block")
        for k, (column, _, file) in enumerate(s.columns):
            offset, size = s.offsets[:, k], s.sizes[:, k]
            if (offset < 0).any() or (size < 0).any() or (offset > s.file_bytes[:, file] - size).any():
                raise self._bad(f"column {column} lies outside its file")

    def _check_splits(self) -> None:
        if bad := [split for split in self._batch["split"].unique().to_pylist() if not is_split_name(split)]:
            raise self._bad(f"{bad[0]!r:.300} is not the name of a split")

    def _bad(self, why: str) -> FormatError:
        return FormatError(f"{self._where}: target {self._target}: {why}")


def check_rows(rows: TargetShards, where: str) -> None:
    """Raise FormatError unless the shards of `rows` cover all rows."""
    if rows.first_row[0] != 0 or (rows.first_row[1:] != rows.first_row[:-1] + rows.rows[:-1]).any():
        raise FormatError(f"{where}: the shards of rows do not cover all rows from 0 without gap or overlap")


def check_places(shards: TargetShards, rows: TargetShards, where: str) -> None:
    """Raise FormatError unless each shard has the rows, keys and split of its fragment."""
    at = np.searchsorted(rows.first_row, shards.first_row).clip(max=len(rows.first_row) - 1)
    same = (
        (rows.first_row[at] == shards.first_row)
        & (rows.rows[at] == shards.rows)
        & (rows.fragments[at] == shards.fragments)
        & (rows.first_views[at] == shards.first_views)
        & (rows.views[at] == shards.views)
    )
    places = pa.Array.from_buffers(pa.int64(), len(at), [None, pa.py_buffer(at)])
    keys, splits = rows.keys.take(places), rows.splits.take(places)
    if not same.all() or not keys.equals(shards.keys) or not splits.equals(shards.splits):
        raise FormatError(
            f"{where}: target {shards.target}: a shard does not have the rows, keys or split of its fragment"
        )


def dump_manifest(target: str, shards: Sequence[LiveShard], said: CommittedTarget | None = None) -> memoryview:
    """Return the bytes of the manifest file of a target.

    `said` is what the commit says about the target, None for `rows`.
    """
    ordered = sorted(shards, key=lambda s: s.first_row)
    rows = [
        {
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
    metadata = {_NAME: target.encode()} | ({} if said is None else {_RECORD: canonical_json(said.to_json())})
    return arrow.dump({name: pa.array([r[name] for r in rows], kind) for name, kind in _TYPES.items()}, metadata)
