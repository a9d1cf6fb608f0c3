"""Units of work: which shards exist, which are still to be made."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from softcache.builder.planning import Work
from softcache.builder.targets import BuildTarget, differences
from softcache.errors import IncompatibleTarget
from softcache.store.files import Files
from softcache.store.layout import ROWS
from softcache.store.manifest import LiveShard
from softcache.store.plan import Fragment
from softcache.store.receipts import Receipt, read_receipts, receipt_keys, short_declaration, unit_key
from softcache.store.shards import Shard
from softcache.store.state import State, committed_unit_keys
from softcache.transfer import Scan
from softcache.transfer.libraries import versions
from softcache.transfer.transfer_set import kept_digest

log = logging.getLogger("softcache")


@dataclass(frozen=True, eq=False)
class Unit:
    """One target's shard for one fragment. `target` is None for `rows`."""

    key: str
    name: str
    fragment: Fragment
    target: BuildTarget | None


@dataclass(frozen=True, eq=False)
class Stored:
    """What a cache holds when a build begins.

    Attributes:
        state: the newest commit, None before the first.
        live: its shards, by target and fragment.
        receipts: by unit key, the receipts that the newest commit does not name.
        sizes: the size of every file in `data`, by path, when the build began.
    """

    state: State | None
    live: dict[tuple[str, int], LiveShard]
    receipts: dict[str, Receipt]
    sizes: dict[str, int]

    @property
    def plan_head(self) -> str | None:
        """The plan of the newest commit."""
        return None if self.state is None else self.state.commit.plan

    def shard(self, unit: Unit) -> Shard | None:
        """Return a unit's shard if it is recorded and its files are there with their sizes."""
        live = self.live.get((unit.name, unit.fragment.number))
        if unit.key in self.receipts:
            shard = self.receipts[unit.key].shard
        elif live is not None and live.shard.unit_key == unit.key:
            shard = live.shard
        else:
            return None
        return shard if self.is_there(shard) else None

    def is_there(self, shard: Shard) -> bool:
        """Whether a shard's files are there with their sizes."""
        return all(self.sizes.get(f.path) == f.bytes for f in shard.files)

    def has(self, unit: Unit) -> bool:
        """Whether a unit's shard is done."""
        return self.shard(unit) is not None


def read_stored(files: Files, state: State | None) -> Stored:
    """Read what is there: the newest commit's shards, and the receipts beyond it."""
    live = {} if state is None else {(s.shard.target, s.fragment): s for s in state.manifest.live()}
    committed = {s.shard.unit_key for s in live.values()}
    keys = sorted(receipt_keys(files) - committed)
    sizes = {path: size for path, size, _ in files.walk("data")}
    return Stored(state, live, {r.shard.unit_key: r for r in read_receipts(files, keys)}, sizes)


def all_units(work: Work, scan: Scan, targets: Sequence[BuildTarget], rows_fingerprint: str) -> list[Unit]:
    """Return every unit of a build, fragment by fragment, `rows` first."""
    units = []
    for number, positions in work.positions.items():
        fragment = work.plan.fragments[number]
        key = unit_key(
            fragment.keys_sha256, rows_fingerprint, kept_digest(scan.kept[np.asarray(positions)]), fragment.split
        )
        units.append(Unit(key, ROWS, fragment, None))
        for target in targets:
            units.append(Unit(unit_key(fragment.keys_sha256, target.fingerprint), target.name, fragment, target))
    return units


def check_targets(files: Files, stored: Stored, targets: Sequence[BuildTarget]) -> None:
    """Compare targets with what is stored under their names.

    Raises IncompatibleTarget showing every difference in a declaration; other library versions are only a warning.
    """
    committed = {} if stored.state is None else stored.state.commit.targets
    # Where a target is committed, that decides: a builder that lost against it may have left receipts of another.
    open_names = {t.name for t in targets} - set(committed)
    unfinished = [r for r in stored.receipts.values() if r.shard.target in open_names]
    if stored.state is not None and any(r.fingerprint not in {t.fingerprint for t in targets} for r in unfinished):
        history = committed_unit_keys(files)
        unfinished = [r for r in unfinished if r.shard.unit_key not in history]
    problems = []
    for target in targets:
        known = [(t.fingerprint, t.declaration, t.versions) for n, t in committed.items() if n == target.name]
        known += [(r.fingerprint, r.declaration, r.versions) for r in unfinished if r.shard.target == target.name]
        for other, declaration, used in known:
            if other != target.fingerprint:
                old, new = short_declaration(declaration), short_declaration(target.declaration)
                problems.append(
                    f"  {target.name}: fingerprint {other[:12]} is stored, {target.fingerprint[:12]} is asked for"
                )
                problems += [f"  {target.name}: {d}" for d in differences(old, new)]
                break
            changed = differences(used, versions(target.libraries))
            if changed:
                log.warning("%s was built with other library versions: %s", target.name, "; ".join(changed))
                break
    if problems:
        raise IncompatibleTarget(
            "stored targets were made otherwise than this recipe says:\n"
            + "\n".join(problems)
            + "\nGive the new target another name (tasks.*.name, or another teacher name), restore what changed, or, if"
            " the stored part was never committed, give it up with: softcache gc DIR --abandon --yes"
        )


def check_augmentation(state: State | None, declared: dict[str, Any] | None) -> None:
    """Raise IncompatibleTarget unless samples are augmented as those of the cache are."""
    stored = None if state is None else state.commit.augmentation
    changed = [] if state is None else differences((stored or {}).get("declaration"), declared, "augmentation")
    if changed:
        raise IncompatibleTarget(
            "the cache's views are made otherwise than this recipe says:\n"
            + "\n".join(f"  {line}" for line in changed)
            + "\nAugment as the cache does (the number of views may grow), or build another cache."
        )


def check_keep(state: State | None, keep: dict[str, str]) -> None:
    """Raise IncompatibleTarget unless the kept columns and their types are those of the cache."""
    changed = [] if state is None else differences(state.commit.keep, keep, "keep")
    if changed:
        raise IncompatibleTarget(
            "the cache keeps other columns than this recipe says:\n"
            + "\n".join(f"  {line}" for line in changed)
            + "\nKeep the same columns with the same types, or build another cache."
        )
