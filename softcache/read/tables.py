"""Whole shards as Arrow tables and local files, each checked against its hash before it is used."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from softcache.errors import FormatError, TaskError
from softcache.store import arrow
from softcache.store.commits import FileReference
from softcache.store.files import Files
from softcache.store.manifest import TargetShards
from softcache.store.state import read_reference


def shards_of(shards: TargetShards, split: str | None) -> list[int]:
    """Return the positions of a split's shards, of all if it is None. Raises TaskError for an unknown split."""
    splits = shards.splits.to_pylist()
    chosen = [i for i, s in enumerate(splits) if split is None or s == split]
    if not chosen:
        raise TaskError(f"target {shards.target} has no split {split!r}; there are {', '.join(sorted(set(splits)))}")
    return chosen


def checked_files(files: Files, shards: TargetShards, split: str | None) -> Iterator[tuple[FileReference, pa.Buffer]]:
    """Yield the Arrow file of each shard, mapped. Raises IntegrityError for a missing, short or altered one."""
    for shard in shards_of(shards, split):
        reference = FileReference(shards.path(shard, 0), int(shards.file_bytes[shard, 0]), shards.digest(shard, 0))
        yield reference, read_reference(files, reference)


def read_table(files: Files, shards: TargetShards, split: str | None) -> pa.Table:
    """Return a split's rows as a table, memory-mapped."""
    parts = [arrow.load(data, f"{files.url}/{r.path}") for r, data in checked_files(files, shards, split)]
    try:
        return pa.Table.from_batches(parts)
    except pa.ArrowException as e:
        raise FormatError(f"{files.url}: the shards of {shards.target} do not have the same columns: {e}") from e
