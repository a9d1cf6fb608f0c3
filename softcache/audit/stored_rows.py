"""What a shard of `rows` stores against what its commit and its fragment say."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from softcache.audit.stored import different_columns
from softcache.read.cache import Cache
from softcache.store import arrow
from softcache.store.checksums import fingerprint
from softcache.store.commits import Commit
from softcache.store.layout import ROWS
from softcache.store.live_shards import LiveShard
from softcache.store.plan import Fragment
from softcache.store.receipts import unit_key
from softcache.transfer.content import hash_rows
from softcache.transfer.transfer_set import kept_digest
from softcache.transfer.view_checks import CHECK_BYTES

_CHECK = pa.list_(pa.field("item", pa.list_(pa.field("item", pa.uint8(), nullable=False), CHECK_BYTES), nullable=False))


def rows_fingerprint(commit: Commit) -> str:
    """Return the target fingerprint of `rows`, from what a commit says."""
    declared = {"id": commit.id_type, "keep": commit.keep}
    if commit.augmentation is not None:
        declared |= {"augmentation": commit.augmentation["declaration"]}
    return fingerprint([ROWS, declared])


def check_rows(cache: Cache, fragment: Fragment, live: LiveShard, batch: pa.RecordBatch) -> Iterator[str]:
    """Yield what is wrong with a shard of `rows`. Raises what reading it raises."""
    if wrong := list(_check_columns(cache.commit, batch)):
        yield from wrong
        return
    if batch.num_rows != len(fragment.sample_ids):
        yield f"it has {batch.num_rows:,} rows; its fragment has {len(fragment.sample_ids):,} samples"
        return
    if not batch["split"].equals(pa.array([fragment.split] * batch.num_rows, pa.string())):
        yield f"its rows are not all in split {fragment.split}"
    if "check" in batch.schema.names and (np.diff(arrow.numbers(batch["check"].offsets)) != fragment.views).any():
        yield "it does not have a check for each view"
        return
    kept = pa.table({name: batch[name] for name in sorted(cache.commit.keep)})
    digest = kept_digest(hash_rows(kept, batch.num_rows))
    if live.shard.unit_key != unit_key(fragment.keys_sha256, rows_fingerprint(cache.commit), digest, fragment.split):
        yield "its unit key is not that of its keys, declaration, kept values and split"
    rows = np.arange(live.first_row, live.first_row + live.shard.rows)
    contents = np.repeat(fragment.contents, fragment.views, axis=0)
    cache.check_contents(fragment.row_ids(), contents, fragment.row_views())
    if cache.commit.augmentation is not None:
        cache.checks(rows)
        cache.parameters(rows)
    if not np.array_equal(cache.find(fragment.row_ids(), fragment.row_views()), rows):
        yield "looking its keys up does not give its rows"


def _check_columns(commit: Commit, batch: pa.RecordBatch) -> Iterator[str]:
    there = dict(zip(batch.schema.names, batch.schema.types, strict=True))
    expected = {"view": pa.int32(), "sample_id": pa.type_for_alias(commit.id_type), "split": pa.string()}
    expected["content"] = pa.binary()
    if commit.augmentation is not None:
        expected |= {"check": _CHECK} | ({"parameters": pa.string()} if "parameters" in there else {})
    for name, kind in sorted(commit.keep.items()):
        # The name of an extension type depends on which libraries are imported.
        if name in there and str(there[name]) != kind and not kind.startswith("extension<"):
            yield f"its kept column {name} is {there[name]}; the commit says {kind}"
            return
        expected[name] = there.get(name, pa.null())
    yield from different_columns(batch.schema, expected)
