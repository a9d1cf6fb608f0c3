"""What hashes cannot show: that the parts of a cache, each intact, also belong together."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from softcache.audit.stored import check_columns, check_stored
from softcache.audit.stored_rows import check_rows, rows_fingerprint
from softcache.codecs.statistics import merge_statistics, value_statistics
from softcache.read.cache import Cache
from softcache.read.target import Target
from softcache.store import arrow, zarr
from softcache.store.about import about_rows, about_target, read_about, zarr_attributes
from softcache.store.checksums import block_checksums, fingerprint, sha256
from softcache.store.commits import Commit
from softcache.store.declarations import TargetDeclaration
from softcache.store.files import Files
from softcache.store.index import Segment
from softcache.store.keys import key_type, keys_digest
from softcache.store.layout import ROWS, hash_in_path, target_of_shard
from softcache.store.live_shards import LiveShard
from softcache.store.plan import Fragment
from softcache.store.receipts import unit_key
from softcache.store.references import read_reference
from softcache.transfer.vocabulary import VOCABULARY, vocabulary_hash


def has_its_keys(fragment: Fragment) -> bool:
    """Whether a fragment's keys hash is that of its samples."""
    found = keys_digest(fragment.sample_ids, fragment.first_view, fragment.views, fragment.contents)
    return found == fragment.keys_sha256


def check_condemned(commit: Commit, parent: Commit | None) -> Iterator[str]:
    """Yield how what a commit condemns contradicts the commit before it."""
    before, epoch = ((), 0) if parent is None else (parent.condemned, parent.epoch)
    if commit.condemned[: len(before)] != before:
        yield "does not condemn what the commit before it condemned"
    if commit.epoch != (commit.number if len(commit.condemned) > len(before) else epoch):
        yield f"its epoch is {commit.epoch}, not the number of the newest commit that condemned files"


def check_splits(cache: Cache, rows: list[LiveShard]) -> Iterator[str]:
    """Yield how the splits of a commit differ from those of its shards of `rows`."""
    splits: dict[str, int] = {}
    for shard in rows:
        splits[shard.split] = splits.get(shard.split, 0) + shard.shard.rows
    if splits != cache.commit.splits:
        yield f"splits are {cache.commit.splits}; the shards have {splits}"


def check_figures(cache: Cache, name: str, live: list[LiveShard]) -> Iterator[str]:
    """Yield how what a commit says about a target differs from its declaration and its shards."""
    target, shards = cache.committed(name), [s.shard for s in live]
    if target.skipped_rows != target.rows - target.valid or len(target.skipped) > target.skipped_rows:
        yield f"target {name} says that {target.skipped_rows:,} rows were skipped, and lists {len(target.skipped):,}"
    if target.fingerprint != fingerprint([name, target.declaration]):
        yield f"target {name}: its fingerprint is not that of its declaration"
    found = {
        "rows": sum(s.rows for s in shards),
        "valid": sum(s.statistics["valid"] for s in shards),
        "bytes": sum(s.bytes for s in shards),
    } | merge_statistics([s.statistics for s in shards])
    said = {"rows": target.rows, "valid": target.valid, "bytes": target.bytes} | target.statistics
    if not _close(found, said):
        yield f"target {name} has {said}; its shards have {found}"


def check_tables(cache: Cache, name: str) -> Iterator[str]:
    """Yield how a target's tables differ from its declaration. Raises what reading them raises."""
    target = cache[name]
    if target.task.traits.has_tokens and vocabulary_hash(target.table_of(VOCABULARY)) != target.task.tokenizer:
        yield f"the vocabulary of {target.name} is not that of its tokenizer"
    table = target.codec.item.table
    if table is not None:
        table.on(torch.device("cpu"))


def check_shard(files: Files, cache: Cache, fragment: Fragment, live: LiveShard) -> Iterator[str]:
    """Yield what is wrong inside a shard whose files are intact. Raises what reading it raises."""
    form = "arrow" if live.shard.target == ROWS else cache.committed(live.shard.target).declaration["format"]
    if not _has_its_path(live, form):
        yield "its path is not that of a shard of its target and format"
        return
    batch = None
    if form == "arrow":
        data = read_reference(files, live.shard.files[0])
        batch = arrow.load(data, live.shard.files[0].path)
        if arrow.locate(data) != live.shard.columns:
            yield "its columns do not lie where the manifest says"
            return
    if live.shard.target == ROWS and batch is not None:
        yield from check_rows(cache, fragment, live, batch)
        yield from _check_arrow(cache, fragment, live, batch)
        return
    target = cache[live.shard.target]
    if live.shard.unit_key != unit_key(fragment.keys_sha256, target.provenance["fingerprint"]):
        yield "its unit key is not that of its keys and declaration"
    if batch is not None and (wrong := list(check_columns(target, batch, fragment.sample_ids.type))):
        yield from wrong
        return
    if batch is not None:
        yield from _check_arrow(cache, fragment, live, batch)
    yield from _check_values(target, live)
    yield from check_stored(target, live, batch)
    if target.task.is_list and batch is not None:
        yield from _check_lists(target, batch)
    if target.format == "zarr":
        yield from _check_zarr(files, cache, target, fragment, live)


def _has_its_path(live: LiveShard, form: str) -> bool:
    """Whether the files of a shard lie where docs/format.md, section 1, says."""
    top, dot, _ = live.shard.files[0].path.partition(f".{form}")
    within = f"{top}{dot}" if form == "arrow" else f"{top}{dot}/"
    return target_of_shard(f"{top}{dot}") == live.shard.target and all(
        f.path.startswith(within) for f in live.shard.files
    )


def check_index(files: Files, cache: Cache, live: list[LiveShard]) -> Iterator[str]:
    """Yield what is wrong with the index; `live` are the shards of `rows`."""
    kind = key_type(cache.commit.id_type)
    segments = [Segment(read_reference(files, r), kind, r.blocks, r.path) for r in cache.commit.index]
    expected = [np.arange(s.first_row, s.first_row + s.shard.rows, s.views) for s in live]
    if not np.array_equal(np.sort(np.concatenate([s.rows for s in segments])), np.sort(np.concatenate(expected))):
        yield "does not hold every sample of every fragment once"
    if any((s.keys[1:] < s.keys[:-1]).any() for s in segments):
        yield "a segment is not sorted"
    if any(tuple(block_checksums(s.data)) != r.blocks for s, r in zip(segments, cache.commit.index, strict=True)):
        yield "its block checksums are not those of the commit"


def _check_about(cache: Cache, live: LiveShard, batch: pa.RecordBatch) -> Iterator[str]:
    """Yield how what an Arrow shard says about itself differs from what the commit says about its target."""
    said, commit = read_about(batch.schema), cache.commit
    if live.shard.target == ROWS:
        expected = about_rows(rows_fingerprint(commit))
    else:
        expected = about_target(live.shard.target, *_declared(cache, live.shard.target))
    if said != expected:
        yield f"it says that it is {said}; it is {expected}"


def _declared(cache: Cache, target: str) -> tuple[str, TargetDeclaration]:
    declared = cache.committed(target)
    return declared.fingerprint, declared.declaration


def _check_arrow(cache: Cache, fragment: Fragment, live: LiveShard, batch: pa.RecordBatch) -> Iterator[str]:
    file = live.shard.files[0]
    if hash_in_path(file.path) != file.sha256:
        yield "its name is not its hash"
    yield from _check_about(cache, live, batch)
    ids, views = fragment.row_ids(), fragment.row_views()
    if live.shard.target == ROWS:
        ids, views = fragment.sample_ids, np.full(len(fragment.sample_ids), fragment.first_view)
    if not batch["sample_id"].equals(ids) or not np.array_equal(batch["view"], views):
        yield "its sample ids and views are not those of its fragment"


def _check_zarr(files: Files, cache: Cache, target: Target, fragment: Fragment, live: LiveShard) -> Iterator[str]:
    top = live.shard.files[0].path.partition(".zarr/")[0] + ".zarr/"
    digests = {f.path.removeprefix(top): f.sha256 for f in live.shard.files}
    if hash_in_path(top.removesuffix("/")) != sha256(zarr.listing(digests)):
        yield "its name is not the hash of its files"
    soft = target.read(np.arange(live.first_row, live.first_row + live.shard.rows))
    values = target.read_columns(np.arange(live.first_row, live.first_row + live.shard.rows))
    about = about_target(target.name, *_declared(cache, target.name))
    fills = {column.name: column.missing for column in target.codec.columns}
    mask, ids, views = soft.mask.numpy(), fragment.row_ids(), fragment.row_views()
    expected, _ = zarr.encode(values, mask, ids, views, zarr_attributes(about), fills)
    if digests.keys() != expected.keys():
        yield "it does not have the files of a shard"
        return
    for name, data in expected.items():
        stored = files.read(top + name)
        if "/c/" in name and stored != data:
            yield f"{name.partition('/')[0]} is not that of its fragment"
        elif name.endswith("zarr.json") and _parsed(stored) != json.loads(data):
            yield f"{name} is not what the page says it is"


def _parsed(document: bytes) -> Any:
    try:
        return json.loads(document)
    except (ValueError, RecursionError):
        return None


def _check_values(target: Target, live: LiveShard) -> Iterator[str]:
    rows = np.arange(live.first_row, live.first_row + live.shard.rows)
    found = value_statistics(target.codec, target.read(rows).columns, target.read_valid(rows))
    recorded = {name: value for name, value in live.shard.statistics.items() if name != "errors"}
    if not _close(found, recorded):
        yield f"its values have the statistics {found}; {live.shard.statistics} were recorded"


def _check_lists(target: Target, batch: pa.RecordBatch) -> Iterator[str]:
    """Yield how the lists of a row contradict each other."""
    lengths = np.diff(arrow.numbers(batch[target.codec.columns[0].name].offsets))
    alike = [column.name for column in target.codec.columns] + (
        ["positions"] if "positions" in batch.schema.names else []
    )
    for name in alike:
        if not np.array_equal(np.diff(arrow.numbers(batch[name].offsets)), lengths):
            yield f"the lists of {name} are not as long as those of {alike[0]}"
    if not target.task.traits.has_tokens:
        return
    row = np.repeat(np.arange(len(lengths)), lengths)
    tokens, positions = np.diff(arrow.numbers(batch["input_ids"].offsets)), arrow.numbers(batch["positions"].values)
    if len(positions) != len(row) or (positions < 0).any() or (positions >= tokens[row] - 1).any():
        yield "positions are not those of its tokens"
    elif ((np.diff(positions) <= 0) & (np.diff(row) == 0)).any():
        yield "positions do not ascend"


def _close(found: Mapping[str, Any], recorded: Mapping[str, Any]) -> bool:
    """Whether two sets of statistics are equal up to the rounding of sums."""
    if found.keys() != recorded.keys():
        return False
    return all(_same(found[k], recorded[k]) for k in found)


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return _close(a, b)
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return all(map(_same, a, b))
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12)
    return bool(a == b)
