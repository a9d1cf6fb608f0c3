"""The live shards of a new commit, and the index of their rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from softcache.builder.prepare.inventory import Inventory
from softcache.builder.prepare.units import Unit
from softcache.store.commits import Commit
from softcache.store.index import MAX_SEGMENTS, Segment, dump_segment, merge
from softcache.store.keys import index_keys, key_type
from softcache.store.layout import ROWS
from softcache.store.manifest import LiveShard
from softcache.store.plan import Plan
from softcache.store.shards import CheckedFile, put_file
from softcache.store.state import read_reference
from softcache.store.writer import Writer

Cell = tuple[str, int]
"""A target and a fragment: the place of one shard."""


def live_shards(
    plan: Plan, units: Sequence[Unit], inventory: Inventory
) -> tuple[dict[Cell, LiveShard], list[list[str | int]]]:
    """Return the shards of the new commit by target and fragment, and the places of those that it drops.

    A shard is dropped if the samples of its fragment have changed since and no unit of this build replaces it.
    """
    first_rows = _first_rows(plan, inventory)
    live = dict(inventory.live)
    for unit in units:
        receipt, fragment = inventory.receipts.get(unit.key), unit.fragment
        if receipt is not None:
            live[unit.name, fragment.number] = LiveShard(
                shard=receipt.shard,
                split=fragment.split,
                fragment=fragment.number,
                first_view=fragment.first_view,
                views=fragment.views,
                first_row=first_rows[fragment.number],
            )
    stale = [cell for cell, one in live.items() if one.shard.keys_sha256 != plan.fragments[cell[1]].keys_sha256]
    for cell in stale:
        del live[cell]
    return live, [list(cell) for cell in sorted(stale)]


def _first_rows(plan: Plan, inventory: Inventory) -> dict[int, int]:
    """Return each fragment's first row: where it is already, or after all other rows."""
    known = {fragment: s.first_row for (target, fragment), s in inventory.live.items() if target == ROWS}
    end = max((s.first_row + s.shard.rows for s in inventory.live.values()), default=0)
    for number, fragment in sorted(plan.fragments.items()):
        if number not in known:
            known[number] = end
            end += fragment.rows
    return known


def write_index(
    out: Writer, plan: Plan, live: Mapping[Cell, LiveShard], previous: Commit | None
) -> tuple[CheckedFile, ...]:
    """Return the index's segments: the previous ones and one for the new rows, merged when there are too many."""
    segments = () if previous is None else previous.index
    known = 0 if previous is None else previous.rows
    new = [s for (target, _), s in live.items() if target == ROWS and s.first_row >= known]
    if not new:
        return segments
    keys = [index_keys(plan.fragments[s.fragment].sample_ids) for s in new]
    rows = [np.arange(s.first_row, s.first_row + s.shard.rows, s.views) for s in new]
    if len(segments) >= MAX_SEGMENTS:
        kind = key_type(str(plan.id_type))
        old_keys, old_rows = merge([Segment(read_reference(out.files, r), kind, r.blocks, r.path) for r in segments])
        keys, rows, segments = [old_keys, *keys], [old_rows, *rows], ()
    return (*segments, put_file(out, "index", dump_segment(np.concatenate(keys), np.concatenate(rows))))


def split_rows(live: Mapping[Cell, LiveShard]) -> dict[str, int]:
    """Return the number of rows of each split."""
    splits: dict[str, int] = {}
    for (target, _), shard in sorted(live.items()):
        if target == ROWS:
            splits[shard.split] = splits.get(shard.split, 0) + shard.shard.rows
    return splits
