"""The live shards of a new commit, and the index of their rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from softcache.builder.prepare.inventory import Inventory
from softcache.builder.prepare.units import Unit
from softcache.store.commits import Commit
from softcache.store.index import Segment, dump_segment, merge, segments_to_merge
from softcache.store.keys import index_keys, key_type
from softcache.store.layout import ROWS
from softcache.store.live_shards import LiveShard
from softcache.store.plan import Plan
from softcache.store.references import read_reference
from softcache.store.shards import CheckedFile, put_file
from softcache.store.writer import Writer

Shards = dict[int, LiveShard]
"""The live shards of one target, by fragment."""


def changed_shards(
    plan: Plan, units: Sequence[Unit], inventory: Inventory
) -> tuple[dict[str, Shards], list[list[str | int]]]:
    """Return the shards of each target that the new commit changes, and the places of those that it drops.

    A shard is dropped if the samples of its fragment have changed since and no unit of this build replaces it. A target
    may be left without shards.
    """
    first_rows = _first_rows(plan, inventory)
    found: dict[str, Shards] = {}
    for unit in units:
        receipt, fragment = inventory.receipts.get(unit.key), unit.fragment
        if receipt is not None:
            found.setdefault(unit.name, dict(inventory.shards(unit.name)))[fragment.number] = LiveShard(
                shard=receipt.shard,
                split=fragment.split,
                fragment=fragment.number,
                first_view=fragment.first_view,
                views=fragment.views,
                first_row=first_rows[fragment.number],
            )
    dropped: list[list[str | int]] = []
    stale = _stale(plan, inventory.shards(ROWS))
    for name in sorted(inventory.manifests if stale else ()):
        shards = found.get(name, inventory.shards(name))
        if lost := _stale(plan, shards):
            found[name] = {number: one for number, one in shards.items() if number not in lost}
            dropped += [[name, number] for number in sorted(lost)]
    return {name: shards for name, shards in found.items() if shards != inventory.shards(name)}, dropped


def _stale(plan: Plan, shards: Mapping[int, LiveShard]) -> set[int]:
    """Return the fragments whose samples are others now than in these shards."""
    return {n for n, one in shards.items() if one.shard.keys_sha256 != plan.fragments[n].keys_sha256}


def _first_rows(plan: Plan, inventory: Inventory) -> dict[int, int]:
    """Return each fragment's first row: where it is already, or after all other rows."""
    known = {number: one.first_row for number, one in inventory.shards(ROWS).items()}
    end = max((one.first_row + one.shard.rows for one in inventory.shards(ROWS).values()), default=0)
    for number, fragment in sorted(plan.fragments.items()):
        if number not in known:
            known[number] = end
            end += fragment.rows
    return known


def write_index(out: Writer, plan: Plan, rows: Iterable[LiveShard], previous: Commit | None) -> tuple[CheckedFile, ...]:
    """Return the index's segments: the previous ones, and one for the new rows, merged as `segments_to_merge` says.

    `rows` are the shards of `rows`.
    """
    segments = () if previous is None else previous.index
    known = 0 if previous is None else previous.rows
    new = [s for s in rows if s.first_row >= known]
    if not new:
        return segments
    keys = [index_keys(plan.fragments[s.fragment].sample_ids) for s in new]
    numbers = [np.arange(s.first_row, s.first_row + s.shard.rows, s.views) for s in new]
    count = segments_to_merge(segments, sum(map(len, numbers)))
    if count:
        kind, old = key_type(str(plan.id_type)), segments[len(segments) - count :]
        old_keys, old_rows = merge([Segment(read_reference(out.files, r), kind, r.blocks, r.path) for r in old])
        keys, numbers, segments = [old_keys, *keys], [old_rows, *numbers], segments[: len(segments) - count]
    return (*segments, put_file(out, "index", dump_segment(np.concatenate(keys), np.concatenate(numbers))))


def split_rows(rows: Iterable[LiveShard]) -> dict[str, int]:
    """Return the number of rows of each split, from the shards of `rows`."""
    splits: dict[str, int] = {}
    for one in sorted(rows, key=lambda s: s.fragment):
        splits[one.split] = splits.get(one.split, 0) + one.shard.rows
    return splits
