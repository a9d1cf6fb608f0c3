"""Units of work: one shard each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from softcache.builder.prepare.fragments import Work
from softcache.builder.prepare.inventory import Inventory
from softcache.builder.prepare.targets import BuildTarget
from softcache.store.layout import ROWS
from softcache.store.plan import Fragment
from softcache.store.receipts import unit_key
from softcache.store.shards import Shard
from softcache.transfer import Scan
from softcache.transfer.transfer_set import kept_digest


@dataclass(frozen=True, eq=False)
class Unit:
    """One target's shard for one fragment. `target` is None for `rows`."""

    key: str
    name: str
    fragment: Fragment
    target: BuildTarget | None

    def shard_in(self, inventory: Inventory) -> Shard | None:
        """Return the unit's shard if it is done."""
        return inventory.shard(self.name, self.fragment.number, self.key)


def all_units(work: Work, scan: Scan, targets: Sequence[BuildTarget], rows_fingerprint: str) -> list[Unit]:
    """Return every unit of a build, fragment by fragment, `rows` first."""
    units = []
    for number, positions in work.positions.items():
        fragment = work.plan.fragments[number]
        kept = kept_digest(scan.kept[np.asarray(positions)])
        key = unit_key(fragment.keys_sha256, rows_fingerprint, kept, fragment.split)
        units.append(Unit(key, ROWS, fragment, None))
        for target in targets:
            units.append(Unit(unit_key(fragment.keys_sha256, target.fingerprint), target.name, fragment, target))
    return units
