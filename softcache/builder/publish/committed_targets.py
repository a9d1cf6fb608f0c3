"""What a new commit says about each target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from softcache.builder.prepare.inventory import Inventory
from softcache.builder.prepare.targets import BuildTarget
from softcache.builder.prepare.units import Unit
from softcache.builder.publish.live import Shards
from softcache.codecs.statistics import merge_statistics
from softcache.store.layout import ROWS
from softcache.store.live_shards import LiveShard
from softcache.store.manifest import CommittedTarget
from softcache.store.plan import Plan
from softcache.store.receipts import Receipt
from softcache.store.shards import CheckedFile

SKIPPED_LISTED = 1000


def committed_targets(
    plan: Plan,
    units: Sequence[Unit],
    targets: Sequence[BuildTarget],
    tables: Mapping[str, dict[str, CheckedFile]],
    inventory: Inventory,
    changed: Mapping[str, Shards],
) -> dict[str, CommittedTarget]:
    """Return what the new commit says about each target that it changes, by name.

    `tables` are the built targets' tables by target name, `changed` the shards of the new commit. Targets without
    shards are left out.
    """
    found = {}
    built = {target.name: target for target in targets}
    receipts = _new_receipts(units, inventory)
    for name, shards in changed.items():
        if name == ROWS or not shards:
            continue
        old, own, new = inventory.committed(name), list(shards.values()), receipts.get(name, {})
        untouched = shards.keys() - new.keys()
        skipped = _still_skipped(old, plan, untouched) + [list(s) for r in new.values() for s in r.skipped]
        if name in built:
            found[name] = _built(built[name], tables[name], old, own, list(new.values()), skipped)
        else:
            assert old is not None, f"{name} has shards but was neither built nor committed"
            found[name] = _shrunk(old, own, skipped)
    return found


def _built(
    target: BuildTarget,
    tables: dict[str, CheckedFile],
    old: CommittedTarget | None,
    shards: Sequence[LiveShard],
    receipts: Sequence[Receipt],
    skipped: list[list[Any]],
) -> CommittedTarget:
    """Return what a commit says about a target that this build made or added to."""
    versions = receipts[-1].versions if receipts else old.versions if old is not None else {}
    return CommittedTarget(
        declaration=target.declaration,
        fingerprint=target.fingerprint,
        versions=versions,
        tables=tables,
        **_figures(shards, skipped),
    )


def _shrunk(old: CommittedTarget, shards: Sequence[LiveShard], skipped: list[list[Any]]) -> CommittedTarget:
    """Return what a commit says about a target that this build does not make, and that has lost stale shards."""
    return CommittedTarget(
        declaration=old.declaration,
        fingerprint=old.fingerprint,
        versions=old.versions,
        tables=old.tables,
        **_figures(shards, skipped),
    )


def _figures(shards: Sequence[LiveShard], skipped: list[list[Any]]) -> dict[str, Any]:
    """Return what is counted over a target's shards."""
    statistics = [s.shard.statistics for s in shards]
    rows, valid = sum(s.shard.rows for s in shards), sum(s["valid"] for s in statistics)
    return {
        "rows": rows,
        "valid": valid,
        "bytes": sum(s.shard.bytes for s in shards),
        "statistics": merge_statistics(statistics),
        "skipped": skipped[:SKIPPED_LISTED],
        "skipped_rows": rows - valid,
    }


def _new_receipts(units: Sequence[Unit], inventory: Inventory) -> dict[str, dict[int, Receipt]]:
    """Return the receipts of this build that the commit before does not name, by target and fragment."""
    found: dict[str, dict[int, Receipt]] = {}
    for unit in units:
        if unit.key in inventory.receipts:
            found.setdefault(unit.name, {})[unit.fragment.number] = inventory.receipts[unit.key]
    return found


def _still_skipped(old: CommittedTarget | None, plan: Plan, fragments: set[int]) -> list[list[Any]]:
    """Return what the commit before lists as skipped in fragments that have not changed."""
    if old is None or not old.skipped:
        return []
    ids = {sample_id for number in fragments for sample_id in plan.fragments[number].sample_ids.to_pylist()}
    return [entry for entry in old.skipped if entry[0] in ids]
