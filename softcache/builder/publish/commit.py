"""Publishing a build: the manifests that change, one index segment, one commit, then the card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from softcache.builder.prepare.inventory import Inventory
from softcache.builder.prepare.targets import BuildTarget
from softcache.builder.prepare.units import Unit
from softcache.builder.publish.committed_targets import committed_targets
from softcache.builder.publish.live import Shards, changed_shards, split_rows, write_index
from softcache.errors import IncompleteCache, TeacherError, counted
from softcache.store.card import write_card
from softcache.store.commits import Commit, publish
from softcache.store.declarations import AugmentationRecord, ParentCommit, RowsDeclaration
from softcache.store.layout import ROWS, commit_path
from softcache.store.manifest import CommittedTarget, dump_manifest
from softcache.store.marker import Marker
from softcache.store.plan import Plan
from softcache.store.shards import CheckedFile, StoredFile, put_file
from softcache.store.state import State
from softcache.store.writer import Writer


@dataclass(frozen=True, eq=False, kw_only=True)
class Publication:
    """What a finished build publishes.

    Attributes:
        marker: the cache's marker.
        plan: the fragments in force.
        units: every shard of the build.
        targets: its targets.
        tables: each target's tables, by target name and table name.
        rows: the declaration of `rows`.
        transfer_set: the recipe's description of the transfer set, as JSON.
    """

    marker: Marker
    plan: Plan
    units: Sequence[Unit]
    targets: Sequence[BuildTarget]
    tables: dict[str, dict[str, CheckedFile]]
    rows: RowsDeclaration
    transfer_set: dict[str, Any]


class Outcome(Enum):
    """The outcome of publishing: a commit; nothing, since nothing would change; or another writer's was first."""

    PUBLISHED = "published"
    UP_TO_DATE = "up to date"
    OVERTAKEN = "overtaken"


def publish_build(out: Writer, build: Publication, inventory: Inventory) -> Outcome:
    """Publish the newest commit's shards together with a finished build's.

    `inventory` holds every unit of the build. Raises IncompleteCache if it does not, TeacherError if a target has no
    answer at all.
    """
    files = out.files
    missing = [u for u in build.units if u.shard_in(inventory) is None]
    head = build.plan.head
    if missing or head is None:
        raise IncompleteCache(
            f"{files.url}: {len(missing):,} of {counted(len(build.units), 'shard')} not done; run the same build again"
        )
    used = {f"receipts/{unit.name}" for unit in build.units if unit.key in inventory.receipts}
    used |= {f"receipts/{unit.name}/{unit.key[:2]}" for unit in build.units if unit.key in inventory.receipts}
    previous = None if inventory.state is None else inventory.state.commit
    commits = set() if previous is None else {commit_path(previous.number).rpartition("/")[0]}
    for folder in ("receipts", *sorted(used), "commits", *commits):
        files.settle(folder)
    changed, dropped = changed_shards(build.plan, build.units, inventory)
    if inventory.state is not None and inventory.state.commit.plan == head and not changed:
        write_card(files, inventory.state)
        return Outcome.UP_TO_DATE
    commit = _commit(out, build, inventory, head, changed, dropped)
    published = publish(files, commit)
    if published is None:
        return Outcome.OVERTAKEN
    before = inventory.state
    write_card(files, State(files, published) if before is None else before.after(published))
    return Outcome.PUBLISHED


def _commit(
    out: Writer,
    build: Publication,
    inventory: Inventory,
    head: str,
    changed: dict[str, Shards],
    dropped: list[list[str | int]],
) -> Commit:
    """Write what changes of the manifests and the index; return the commit that names them, not yet published."""
    previous = None if inventory.state is None else inventory.state.commit
    targets = committed_targets(build.plan, build.units, build.targets, build.tables, inventory, changed)
    _check_answers(targets, inventory)
    rows = list(changed.get(ROWS, inventory.shards(ROWS)).values())
    return Commit(
        number=1 if previous is None else previous.number + 1,
        parent=None if previous is None else ParentCommit(number=previous.number, sha256=previous.sha256),
        marker_sha256=build.marker.sha256,
        plan=head,
        manifests=_manifests(out, inventory, changed, targets),
        index=write_index(out, build.plan, rows, previous),
        rows=sum(s.shard.rows for s in rows),
        id_type=str(build.plan.id_type),
        keep=build.rows["keep"],
        views=max(f.first_view + f.views for f in build.plan.fragments.values()),
        augmentation=_augmentation(build, inventory),
        splits=split_rows(rows),
        transfer_set=build.transfer_set,
        epoch=out.epoch,
        condemned=() if previous is None else previous.condemned,
        dropped=dropped,
    )


def _manifests(
    out: Writer, inventory: Inventory, changed: Mapping[str, Shards], targets: Mapping[str, CommittedTarget]
) -> dict[str, StoredFile]:
    """Write the manifests of the targets that change; return those of all targets, by name."""
    found = {name: manifest for name, manifest in inventory.manifests.items() if name not in changed}
    for name, shards in changed.items():
        if shards:
            file = put_file(out, "manifests", dump_manifest(name, list(shards.values()), targets.get(name)))
            found[name] = StoredFile(file.path, file.bytes, file.sha256)
    return dict(sorted(found.items()))


def _augmentation(build: Publication, inventory: Inventory) -> AugmentationRecord | None:
    """Return how views are made, and the versions of all libraries that have made some."""
    declaration = build.rows.get("augmentation")
    if declaration is None:
        return None
    previous = None if inventory.state is None else inventory.state.commit.augmentation
    used = [] if previous is None else list(previous["versions"])
    for unit in build.units:
        receipt = inventory.receipts.get(unit.key) if unit.target is None else None
        if receipt is not None and receipt.versions not in used:
            used.append(receipt.versions)
    return {"declaration": declaration, "versions": used}


def _check_answers(targets: Mapping[str, CommittedTarget], inventory: Inventory) -> None:
    """Raise TeacherError if a target has no answer at all."""
    empty = [name for name, target in targets.items() if target.valid == 0]
    if empty:
        raise TeacherError(
            f"{', '.join(empty)}: no sample has an answer, so nothing is published; to see why, "
            f"{inventory.how_to_give_up}, with build.on_bad_sample=stop"
        )
