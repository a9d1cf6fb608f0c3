"""What a cache holds when a build begins."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

from softcache.store.commits import check_may_write, latest_number
from softcache.store.condemned import read_condemned
from softcache.store.files import Files
from softcache.store.layout import ROWS, epoch_in_path, hash_and_epoch
from softcache.store.live_shards import LiveShard
from softcache.store.manifest import CommittedTarget
from softcache.store.marker import read_marker
from softcache.store.receipts import Receipt, receipt_paths, receipts_in_force
from softcache.store.shards import Shard, StoredFile
from softcache.store.state import State, read_state
from softcache.store.target_tables import tables_in_force, tables_paths


@dataclass(frozen=True, eq=False, kw_only=True)
class Inventory:
    """The newest commit of a cache, and the work beyond it.

    Attributes:
        state: the newest commit, None before the first.
        receipts: by unit key, the receipts of a build's targets and of `rows` that the newest commit does not name.
        sizes: the size of every file of their shards, by path.
        condemned: the paths that the newest commit, or one before it, condemns.
    """

    state: State | None
    receipts: dict[str, Receipt]
    sizes: dict[str, int]
    condemned: frozenset[str]
    _live: dict[str, dict[int, LiveShard]] = field(default_factory=dict)

    @property
    def epoch(self) -> int:
        """The epoch of who writes on top of the newest commit."""
        return 0 if self.state is None else self.state.commit.epoch

    @property
    def number(self) -> int:
        """The number of the newest commit, 0 if there is none."""
        return 0 if self.state is None else self.state.commit.number

    @property
    def how_to_give_up(self) -> str:
        """What a user does to give up what is not committed, for error messages."""
        if self.state is None:
            return "delete the folder, in which nothing is committed yet, and build again"
        return "give the unfinished part up with: softcache gc DIR --abandon --yes"

    @property
    def plan_head(self) -> str | None:
        """The plan of the newest commit."""
        return None if self.state is None else self.state.commit.plan

    @property
    def manifests(self) -> Mapping[str, StoredFile]:
        """The manifest of each target of the newest commit, `rows` included."""
        return {} if self.state is None else self.state.commit.manifests

    def committed(self, target: str) -> CommittedTarget | None:
        """Return what the newest commit says about a target, None if it has no such target."""
        return self.state.committed(target) if self.state is not None and target in self.manifests else None

    def shards(self, target: str) -> dict[int, LiveShard]:
        """Return the newest commit's shards of a target, by fragment."""
        if target not in self._live:
            known = self.state is not None and target in self.manifests
            live = self.state.manifest(target).live() if self.state is not None and known else ()
            self._live[target] = {one.fragment: one for one in live}
        return self._live[target]

    def shard(self, name: str, fragment: int, unit_key: str) -> Shard | None:
        """Return a unit's shard if it is recorded and its files exist with their sizes."""
        live = self.shards(name).get(fragment)
        if unit_key in self.receipts:
            shard = self.receipts[unit_key].shard
        elif live is not None and live.shard.unit_key == unit_key:
            shard = live.shard
        else:
            return None
        return shard if self.has_files(shard) else None

    def has_files(self, shard: Shard) -> bool:
        """Whether a shard's files exist with their sizes."""
        return all(self.sizes.get(f.path) == f.bytes for f in shard.files)

    def with_receipts(self, receipts: Mapping[str, Receipt]) -> Self:
        """Return the inventory with receipts that a build has just written, by unit key."""
        written = {f.path: f.bytes for receipt in receipts.values() for f in receipt.shard.files}
        return replace(self, receipts=self.receipts | dict(receipts), sizes=self.sizes | written)


def read_inventory(files: Files, targets: Iterable[str]) -> Inventory:
    """Read the newest commit, and the receipts beyond it of the targets of a build and of `rows`.

    Raises UnsupportedVersion if this version of softcache may not write to the cache.
    """
    has_commit = read_marker(files) is not None and latest_number(files) > 0
    state = read_state(files) if has_commit else None
    if state is not None:
        check_may_write(files, state.commit)
    condemned = frozenset[str]() if state is None else read_condemned(files, state.commit)
    names = {ROWS, *targets}
    known = () if state is None else names & state.commit.manifests.keys()
    committed = {key for name in known if state is not None for key in state.manifest(name).unit_keys()}
    paths = [of_unit for key, of_unit in sorted(receipt_paths(files, sorted(names)).items()) if key not in committed]
    receipts = [receipt for _, receipt in receipts_in_force(files, paths, condemned)]
    rows = () if state is None else state.manifest(ROWS).live()
    return Inventory(
        state=state,
        receipts={r.shard.unit_key: r for r in _with_their_base(files, receipts, rows, condemned)},
        sizes={path: size for name in sorted(names) for path, size, _ in files.walk(f"data/{name}")},
        condemned=condemned,
    )


def _with_their_base(
    files: Files, receipts: list[Receipt], live_rows: Iterable[LiveShard], condemned: Collection[str]
) -> list[Receipt]:
    """Leave out receipts of targets whose tables, or the views that their teacher saw, are others now, or none.

    Tables and views may have been made again in a later epoch than a receipt's, and may then differ.
    """
    rows = [r for r in receipts if r.shard.target == ROWS]
    views: dict[str, float] = {s.shard.keys_sha256: epoch_in_path(s.shard.files[0].path) for s in live_rows}
    for r in rows:
        views[r.shard.keys_sha256] = max(r.epoch, views.get(r.shard.keys_sha256, 0))
    tables = _epochs_of_tables(files, condemned)
    return rows + [
        r
        for r in receipts
        if r.shard.target != ROWS
        and r.epoch >= tables.get(r.fingerprint, 0)
        and ("augmentation" not in r.declaration or r.epoch >= views.get(r.shard.keys_sha256, math.inf))
    ]


def _epochs_of_tables(files: Files, condemned: Collection[str]) -> dict[str, float]:
    """Return the epoch of the tables in force of each target that has had some, by fingerprint; infinite if none."""
    documents = tables_paths(files)
    condemned_documents = {p for p in condemned if p.startswith("tables/") and p.endswith(".json")}
    for named in filter(None, (hash_and_epoch(path.rsplit("/", 1)[-1]) for path in condemned_documents)):
        documents.setdefault(named[0], [])
    found: dict[str, float] = {}
    for fingerprint, paths in documents.items():
        in_force = tables_in_force(files, paths, condemned)
        found[fingerprint] = math.inf if in_force is None else epoch_in_path(in_force[0])
    return found
