"""Whole shards as Arrow tables and local files. Each is compared with its hash before it is used."""

from __future__ import annotations

import json
from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from softcache.errors import FormatError, TaskError
from softcache.store import arrow
from softcache.store.checksums import canonical_json
from softcache.store.files import Files
from softcache.store.live_shards import TargetShards
from softcache.store.references import read_reference
from softcache.store.shards import StoredFile


def shards_of(shards: TargetShards, split: str | None) -> list[int]:
    """Return the positions of a split's shards, of all if it is None. Raises TaskError for an unknown split."""
    splits = shards.splits.to_pylist()
    chosen = [i for i, s in enumerate(splits) if split is None or s == split]
    if not chosen:
        raise TaskError(f"target {shards.target} has no split {split!r}; it has {', '.join(sorted(set(splits)))}")
    return chosen


def checked_files(files: Files, shards: TargetShards, split: str | None) -> Iterator[tuple[StoredFile, pa.Buffer]]:
    """Yield the Arrow file of each shard, mapped. Raises IntegrityError for a missing, short or altered one."""
    for shard in shards_of(shards, split):
        reference = StoredFile(shards.path(shard, 0), int(shards.file_bytes[shard, 0]), shards.digest(shard, 0))
        yield reference, read_reference(files, reference)


def read_rows(files: Files, shards: TargetShards, split: str | None) -> pa.Table:
    """Return a split's `rows`, one for each row number. It is memory-mapped unless samples have several views."""
    stored = [arrow.load(data, f"{files.url}/{r.path}") for r, data in checked_files(files, shards, split)]
    parts = []
    for shard, batch in zip(shards_of(shards, split), stored, strict=True):
        first, views = int(shards.first_views[shard]), int(shards.views[shard])
        try:
            parts.append(_for_each_view(batch, first, views))
        except (ValueError, TypeError, pa.ArrowException, RecursionError) as e:
            raise FormatError(f"{files.url}/{shards.path(shard, 0)}: not the rows of {views} views each: {e}") from e
    return _together(files, shards, parts)


def _for_each_view(batch: pa.RecordBatch, first: int, views: int) -> pa.RecordBatch:
    """Return a shard of `rows`, which has one row for each sample, with one row for each view."""
    names, samples = batch.schema.names, batch.num_rows
    if views == 1 and "check" not in names:
        return batch
    repeat = pa.array(np.repeat(np.arange(samples), views))
    arrays = {name: batch[name].take(repeat) for name in names}
    arrays["view"] = pa.array(np.tile(np.arange(first, first + views, dtype=np.int32), samples))
    if "check" in names:
        arrays["check"] = batch["check"].flatten()
    if "parameters" in names:
        drawn = [one for text in batch["parameters"].to_pylist() for one in json.loads(text)]
        arrays["parameters"] = pa.array([canonical_json(one).decode() for one in drawn], pa.string())
    fields = [pa.field(name, array.type, nullable=False) for name, array in arrays.items()]
    return pa.RecordBatch.from_arrays(list(arrays.values()), schema=pa.schema(fields))


def read_table(files: Files, shards: TargetShards, split: str | None) -> pa.Table:
    """Return a split's rows as a table, memory-mapped."""
    parts = [arrow.load(data, f"{files.url}/{r.path}") for r, data in checked_files(files, shards, split)]
    return _together(files, shards, parts)


def _together(files: Files, shards: TargetShards, parts: list[pa.RecordBatch]) -> pa.Table:
    try:
        return pa.Table.from_batches(parts)
    except pa.ArrowException as e:
        raise FormatError(f"{files.url}: the shards of {shards.target} do not have the same columns: {e}") from e
