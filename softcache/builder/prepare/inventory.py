"""What a cache holds when a build begins."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

from softcache.store.commits import CommittedTarget, latest_number
from softcache.store.files import Files
from softcache.store.manifest import LiveShard
from softcache.store.marker import read_marker
from softcache.store.receipts import Receipt, read_receipts, receipt_keys
from softcache.store.shards import Shard
from softcache.store.state import State, read_state


@dataclass(frozen=True, eq=False)
class Inventory:
    """The newest commit of a cache, and the work beyond it.

    Attributes:
        state: the newest commit, None before the first.
        live: its shards, by target and fragment.
        receipts: by unit key, the receipts that the newest commit does not name.
        sizes: the size of every file in `data`, by path.
    """

    state: State | None
    live: dict[tuple[str, int], LiveShard]
    receipts: dict[str, Receipt]
    sizes: dict[str, int]

    @property
    def plan_head(self) -> str | None:
        """The plan of the newest commit."""
        return None if self.state is None else self.state.commit.plan

    @property
    def committed(self) -> Mapping[str, CommittedTarget]:
        """What the newest commit says about each target."""
        return {} if self.state is None else self.state.commit.targets

    def shard(self, name: str, fragment: int, unit_key: str) -> Shard | None:
        """Return a unit's shard if it is recorded and its files exist with their sizes."""
        live = self.live.get((name, fragment))
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


def read_inventory(files: Files) -> Inventory:
    """Read the newest commit's shards, and the receipts beyond it.

    Raises UnsupportedVersion if this version of softcache may not write to the cache.
    """
    has_commit = read_marker(files, to_write=True) is not None and latest_number(files) > 0
    state = read_state(files) if has_commit else None
    live = {} if state is None else {(s.shard.target, s.fragment): s for s in state.manifest.live()}
    committed = {s.shard.unit_key for s in live.values()}
    keys = sorted(receipt_keys(files) - committed)
    sizes = {path: size for path, size, _ in files.walk("data")}
    return Inventory(state, live, {r.shard.unit_key: r for r in read_receipts(files, keys)}, sizes)
