"""`softcache repack`: the same rows in larger or smaller shards."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from softcache.audit.pieces import Piece, StoredRows, compare, cut_anew
from softcache.audit.stored_rows import rows_fingerprint
from softcache.codecs.statistics import merge_statistics, value_statistics
from softcache.errors import RecipeError, StorageError
from softcache.measures import ShardStatistics
from softcache.read.cache import Cache
from softcache.store import arrow
from softcache.store.about import about_target
from softcache.store.buffers import Buffer
from softcache.store.card import write_card, write_first_card
from softcache.store.commits import Commit, check_may_write, latest_number, publish
from softcache.store.files import Files, connect
from softcache.store.index import dump_segment
from softcache.store.keys import index_keys
from softcache.store.layout import ROWS
from softcache.store.live_shards import LiveShard
from softcache.store.manifest import dump_manifest
from softcache.store.marker import check_output, ensure_marker, require_marker
from softcache.store.plan import empty_plan, extend_plan, read_plan
from softcache.store.receipts import receipt_paths, unit_key
from softcache.store.references import read_reference
from softcache.store.shards import CheckedFile, Shard, ShardPlace, StoredFile, put_file, put_shard, write_shard
from softcache.store.state import State
from softcache.store.writer import Writer
from softcache.transfer.content import hash_rows
from softcache.transfer.transfer_set import kept_digest


@dataclass(frozen=True, kw_only=True)
class Repacked:
    """A cache whose rows are those of another: how many shards each has, and the bytes of the new one."""

    path: str
    source: str
    rows: int
    source_shards: int
    shards: int
    bytes: int

    def to_json(self) -> dict[str, Any]:
        """Return it as an object."""
        return asdict(self)


def repack(url: str | os.PathLike[str], output: str | os.PathLike[str], *, fragment_rows: int) -> Repacked:
    """Write a new cache with the rows of another one's newest commit, in shards of about `fragment_rows` rows.

    Rows keep their numbers, keys, content hashes and stored values, bit for bit; targets keep their declarations,
    fingerprints, versions and skipped samples. The commit's transfer set says which commit it was made from. Every
    shard is read back and compared with the source, and every key is looked up. Run it again after a kill.

    Raises RecipeError if `output` is another cache or a folder of something else; IntegrityError if the source is
    damaged or a row differs; UnsupportedVersion if a target is not known to this version; and as `softcache.open`.

    Examples:
        >>> softcache.repack("runs/digits", "repacked", fragment_rows=1000).shards
        10
    """
    if fragment_rows < 1:
        raise RecipeError(f"fragment_rows is {fragment_rows}; expected at least 1")
    source, files = Cache(connect(url)), connect(output)
    _check_new(source, files)
    ensure_marker(files)
    write_first_card(files)
    made = _Repacking(source, Writer(files), fragment_rows).run()
    state = State(files, made)
    write_card(files, state)
    live = list(state.live())
    return Repacked(
        path=files.url,
        source=source.url,
        rows=made.rows,
        source_shards=len(list(source.state.live())),
        shards=len(live),
        bytes=sum(one.shard.bytes for one in live),
    )


def _check_new(source: Cache, files: Files) -> None:
    if files.url == source.url:
        raise RecipeError(f"{files.url}: give repack another folder than the cache's own")
    check_may_write(source.state.files, source.commit)
    files.check_writable()
    check_output(files)
    if latest_number(files) or receipt_paths(files):
        raise RecipeError(f"{files.url}: another cache; repack into a new or empty folder")


class _Repacking:
    def __init__(self, source: Cache, out: Writer, fragment_rows: int) -> None:
        self._source, self._files, self._out = source, source.state.files, out
        plan = read_plan(self._files, source.commit.plan)
        self._content, self._rows = plan.content, StoredRows(source.state)
        self._pieces = cut_anew(source.state, plan, fragment_rows)
        self._errors = {name: _errors_by_row(source, name) for name in source.targets}

    def run(self) -> Commit:
        """Write everything, publish it, and compare it with the source."""
        commit, out = self._source.commit, self._out
        plan = extend_plan(out, empty_plan(self._content), [piece.fragment for piece in self._pieces])
        assert plan.head is not None, "a cache has at least one fragment"
        live = {name: self._shards(name) for name in commit.manifests}
        keys = [index_keys(piece.fragment.sample_ids) for piece in self._pieces]
        rows = [np.arange(piece.rows.start, piece.rows.stop, piece.fragment.views) for piece in self._pieces]
        made = Commit(
            number=1,
            parent=None,
            marker_sha256=require_marker(out.files).sha256,
            plan=plan.head,
            manifests={name: self._manifest(name, shards) for name, shards in live.items()},
            index=(put_file(out, "index", dump_segment(np.concatenate(keys), np.concatenate(rows))),),
            rows=commit.rows,
            id_type=commit.id_type,
            keep=commit.keep,
            views=commit.views,
            augmentation=commit.augmentation,
            splits=commit.splits,
            transfer_set=commit.transfer_set | {"repacked": self._origin()},
        )
        compare(self._source, self._rows, Cache(out.files, state=State(out.files, made)), live, self._pieces)
        published = publish(out.files, made)
        if published is None:
            raise StorageError(f"{out.files.url}: somebody else has committed there; repack into a new folder")
        return published

    def _origin(self) -> dict[str, Any]:
        commit = self._source.commit
        marker = require_marker(self._files)
        return {"cache_id": marker.cache_id, "commit": commit.number, "sha256": commit.sha256}

    def _shards(self, name: str) -> list[LiveShard]:
        return [self._live(name, piece) for piece in self._pieces if name in piece.targets]

    def _live(self, name: str, piece: Piece) -> LiveShard:
        fragment = piece.fragment
        files, columns = self._write(name, piece)
        shard = Shard(
            target=name,
            unit_key=self._unit_key(name, piece),
            keys_sha256=fragment.keys_sha256,
            rows=fragment.rows,
            files=files,
            columns=columns,
            statistics=self._statistics(name, piece),
        )
        return LiveShard(
            shard=shard,
            split=fragment.split,
            fragment=fragment.number,
            first_view=fragment.first_view,
            views=fragment.views,
            first_row=piece.first_row,
        )

    def _write(self, name: str, piece: Piece) -> tuple[tuple[CheckedFile, ...], tuple[Buffer, ...]]:
        fragment, out = piece.fragment, self._out
        place = ShardPlace(name, fragment.split, fragment.number)
        if name == ROWS or self._source[name].format == "arrow":
            batch = self._rows.take(name, piece)
            columns = dict(zip(batch.schema.names, batch.columns, strict=True))
            data = arrow.dump(columns, batch.schema.metadata)
            return (put_shard(out, place, data),), arrow.locate(data)
        target, rows, declared = self._source[name], np.asarray(piece.rows), self._source.committed(name)
        return write_shard(
            out,
            "zarr",
            place,
            target.read_columns(rows),
            target.read_valid(rows),
            fragment.row_ids(),
            fragment.row_views(),
            about_target(name, declared.fingerprint, declared.declaration),
            {column.name: column.missing for column in target.codec.columns},
        )

    def _unit_key(self, name: str, piece: Piece) -> str:
        fragment = piece.fragment
        if name != ROWS:
            return unit_key(fragment.keys_sha256, self._source.committed(name).fingerprint)
        batch, commit = self._rows.take(name, piece), self._source.commit
        kept = pa.table({column: batch[column] for column in sorted(commit.keep)})
        digest = kept_digest(hash_rows(kept, batch.num_rows))
        return unit_key(fragment.keys_sha256, rows_fingerprint(commit), digest, fragment.split)

    def _statistics(self, name: str, piece: Piece) -> ShardStatistics:
        if name == ROWS:
            return {"valid": piece.fragment.rows}
        target, rows = self._source[name], np.asarray(piece.rows)
        found = value_statistics(target.codec, target.read(rows).columns, target.read_valid(rows))
        # What was measured when a shard was built was measured on all of it: it goes where its first row goes.
        measured = [s for row, s in self._errors[name].items() if row in piece.rows]
        if (errors := merge_statistics(measured).get("errors")) is not None:
            found["errors"] = errors
        return found

    def _manifest(self, name: str, live: list[LiveShard]) -> StoredFile:
        said = None
        if name != ROWS:
            old = self._source.committed(name)
            said = replace(
                old,
                bytes=sum(one.shard.bytes for one in live),
                statistics=merge_statistics([one.shard.statistics for one in live]),
                tables={n: self._table(file) for n, file in old.tables.items()},
            )
        file = put_file(self._out, "manifests", dump_manifest(name, live, said))
        return StoredFile(file.path, file.bytes, file.sha256)

    def _table(self, file: CheckedFile) -> CheckedFile:
        return put_file(self._out, "tables", memoryview(read_reference(self._files, file)))


def _errors_by_row(source: Cache, name: str) -> dict[int, Any]:
    """Return the statistics of the shards whose codec's errors were measured, by their first row."""
    live = source.state.manifest(name).live()
    return {one.first_row: {"errors": s["errors"]} for one in live if "errors" in (s := one.shard.statistics)}
