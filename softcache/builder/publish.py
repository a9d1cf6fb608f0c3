"""Publishing a build: one manifest, one index segment, one commit, then the card."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np

from softcache.builder.targets import BuildTarget
from softcache.builder.units import Stored, Unit
from softcache.codecs.statistics import merge_statistics
from softcache.errors import IncompleteCache, TeacherError, counted
from softcache.store.card import write_card
from softcache.store.commits import Commit, CommittedTarget, FileReference, publish
from softcache.store.files import Files
from softcache.store.index import MAX_SEGMENTS, Segment, dump_segment, merge
from softcache.store.keys import index_keys, key_type
from softcache.store.layout import ROWS
from softcache.store.manifest import LiveShard, dump_manifest
from softcache.store.marker import Marker
from softcache.store.plan import Fragment, Plan
from softcache.store.receipts import Receipt
from softcache.store.shards import StoredFile, put_file
from softcache.store.state import read_reference

SKIPPED_LISTED = 1000


@dataclass(frozen=True, eq=False)
class Publication:
    """What a finished build publishes."""

    marker: Marker
    plan: Plan
    units: Sequence[Unit]
    targets: Sequence[BuildTarget]
    tables: dict[str, dict[str, StoredFile]]
    keep: dict[str, str]
    augmentation: dict[str, Any] | None
    transfer_set: dict[str, Any]


class Outcome(Enum):
    """What came of publishing: a commit, nothing since nothing would change, or another writer's commit was first."""

    PUBLISHED = "published"
    UP_TO_DATE = "up to date"
    OVERTAKEN = "overtaken"


def publish_build(files: Files, build: Publication, stored: Stored) -> Outcome:
    """Publish the newest commit's shards with a finished build's.

    `stored` holds every unit of the build. Raises IncompleteCache if it does not.
    """
    missing = [u for u in build.units if not stored.has(u)]
    head = build.plan.head
    if missing or head is None:
        raise IncompleteCache(
            f"{files.url}: {len(missing):,} of {counted(len(build.units), 'shard')} not done; run the same build again"
        )
    for folder in ("receipts", "commits"):
        files.settle(folder)
    live, dropped = _live_shards(build, stored)
    previous = None if stored.state is None else stored.state.commit
    if previous is not None and previous.plan == head and live == stored.live:
        write_card(files, previous, live.values())
        return Outcome.UP_TO_DATE
    manifest = put_file(files, "manifests/", dump_manifest(list(live.values())))
    rows = sum(s.shard.rows for s in live.values() if s.shard.target == ROWS)
    commit = Commit(
        number=1 if previous is None else previous.number + 1,
        parent=None if previous is None else {"number": previous.number, "sha256": previous.sha256},
        marker_sha256=build.marker.sha256,
        plan=head,
        manifest=FileReference(manifest.path, manifest.bytes, manifest.sha256),
        index=_index(files, build.plan, live, previous),
        rows=rows,
        id_type=str(build.plan.id_type),
        keep=build.keep,
        views=max(f.first_view + f.views for f in build.plan.fragments.values()),
        augmentation=_augmentation(build, stored),
        splits=_splits(live),
        transfer_set=build.transfer_set,
        targets=_targets(build, stored, live),
        dropped=dropped,
    )
    _check_answers(commit)
    published = publish(files, commit)
    if published is None:
        return Outcome.OVERTAKEN
    write_card(files, published, live.values())
    return Outcome.PUBLISHED


def _live_shards(build: Publication, stored: Stored) -> tuple[dict[tuple[str, int], LiveShard], list[list[Any]]]:
    """Return the shards of the new commit by target and fragment, and those that it takes out."""
    first_rows = _first_rows(build.plan, stored)
    live = dict(stored.live)
    for unit in build.units:
        receipt = stored.receipts.get(unit.key)
        if receipt is not None:
            live[unit.name, unit.fragment.number] = _place(receipt, unit.fragment, first_rows[unit.fragment.number])
    in_force = {n: f.keys_sha256 for n, f in build.plan.fragments.items()}
    stale = [cell for cell, shard in live.items() if shard.shard.keys_sha256 != in_force[cell[1]]]
    for cell in stale:
        del live[cell]
    return live, [list(cell) for cell in sorted(stale)]


def _place(receipt: Receipt, fragment: Fragment, first_row: int) -> LiveShard:
    return LiveShard(receipt.shard, fragment.split, fragment.number, fragment.first_view, fragment.views, first_row)


def _first_rows(plan: Plan, stored: Stored) -> dict[int, int]:
    """Return each fragment's first row: as it is, or behind all others."""
    known = {fragment: s.first_row for (target, fragment), s in stored.live.items() if target == ROWS}
    end = max((s.first_row + s.shard.rows for s in stored.live.values()), default=0)
    for number, fragment in sorted(plan.fragments.items()):
        if number not in known:
            known[number] = end
            end += fragment.rows
    return known


def _index(
    files: Files, plan: Plan, live: dict[tuple[str, int], LiveShard], previous: Commit | None
) -> tuple[StoredFile, ...]:
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
        old_keys, old_rows = merge([Segment(read_reference(files, r), kind, r.blocks, r.path) for r in segments])
        keys, rows, segments = [old_keys, *keys], [old_rows, *rows], ()
    return (*segments, put_file(files, "index/", dump_segment(np.concatenate(keys), np.concatenate(rows))))


def _augmentation(build: Publication, stored: Stored) -> dict[str, Any] | None:
    """Return how views are made, and the versions of all libraries that have made some."""
    if build.augmentation is None:
        return None
    previous = None if stored.state is None else stored.state.commit.augmentation
    used: list[dict[str, str]] = [] if previous is None else list(previous["versions"])
    for unit in build.units:
        if unit.target is None and unit.key in stored.receipts and stored.receipts[unit.key].versions not in used:
            used.append(stored.receipts[unit.key].versions)
    return {"declaration": build.augmentation, "versions": used}


def _targets(build: Publication, stored: Stored, live: dict[tuple[str, int], LiveShard]) -> dict[str, CommittedTarget]:
    committed = {} if stored.state is None else dict(stored.state.commit.targets)
    receipts: dict[str, list[Receipt]] = {}
    redone: dict[str, set[int]] = {}
    for unit in build.units:
        if unit.key in stored.receipts:
            receipts.setdefault(unit.name, []).append(stored.receipts[unit.key])
            redone.setdefault(unit.name, set()).add(unit.fragment.number)
    shards: dict[str, list[LiveShard]] = {}
    for (name, _), shard in live.items():
        shards.setdefault(name, []).append(shard)
    described = {t.name: (t.declaration, t.fingerprint, build.tables[t.name]) for t in build.targets}
    same = {cell for cell, shard in live.items() if shard is stored.live.get(cell)}
    changed = {name for name, _ in (live.keys() | stored.live.keys()) - same}
    result = {name: target for name, target in committed.items() if name in shards and name not in changed}
    for name in sorted(changed & set(shards) - {ROWS}):
        old, new = committed.get(name), receipts.get(name, [])
        declaration, digest, tables = described.get(name) or (old.declaration, old.fingerprint, old.tables)  # type: ignore[union-attr]
        untouched = {s.fragment for s in shards[name]} - redone.get(name, set())
        before = _still_skipped(old, build.plan, untouched)
        skipped = before + [list(s) for r in new for s in r.skipped]
        result[name] = CommittedTarget(
            declaration=declaration,
            fingerprint=digest,
            versions=new[-1].versions if new else old.versions,  # type: ignore[union-attr]
            rows=sum(s.shard.rows for s in shards[name]),
            valid=sum(s.shard.statistics["valid"] for s in shards[name]),
            bytes=sum(s.shard.bytes for s in shards[name]),
            statistics=merge_statistics([s.shard.statistics for s in shards[name]]),
            skipped=skipped[:SKIPPED_LISTED],
            skipped_rows=sum(s.shard.rows - s.shard.statistics["valid"] for s in shards[name]),
            tables=tables,
        )
    return dict(sorted(result.items()))


def _still_skipped(old: CommittedTarget | None, plan: Plan, fragments: set[int]) -> list[list[Any]]:
    """Return what the commit before lists as skipped in fragments that are as they were."""
    if old is None or not old.skipped:
        return []
    ids = {sample_id for number in fragments for sample_id in plan.fragments[number].sample_ids.to_pylist()}
    return [entry for entry in old.skipped if entry[0] in ids]


def _check_answers(commit: Commit) -> None:
    empty = [name for name, target in commit.targets.items() if target.valid == 0]
    if empty:
        raise TeacherError(
            f"{', '.join(empty)}: no sample has an answer, so nothing is published; to see why, give the receipts up "
            "(softcache gc DIR --abandon --yes) and build with build.on_bad_sample=stop"
        )


def _splits(live: dict[tuple[str, int], LiveShard]) -> dict[str, int]:
    splits: dict[str, int] = {}
    for (target, _), shard in sorted(live.items()):
        if target == ROWS:
            splits[shard.split] = splits.get(shard.split, 0) + shard.shard.rows
    return splits
