"""Whether a recipe may add to a cache: its targets, augmentation and kept columns against what is stored."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from softcache.builder.prepare.inventory import Inventory
from softcache.builder.prepare.targets import BuildTarget
from softcache.errors import IncompatibleTarget
from softcache.store.declarations import AugmentationDeclaration, Declaration, short_declaration
from softcache.store.files import Files
from softcache.store.manifest import CommittedTarget
from softcache.store.receipts import Receipt
from softcache.store.state import State, committed_unit_keys
from softcache.transfer.libraries import versions

log = logging.getLogger("softcache")


def check_targets(files: Files, inventory: Inventory, targets: Sequence[BuildTarget]) -> None:
    """Compare targets with what is stored under their names.

    Raises IncompatibleTarget showing every difference between declarations. Other library versions are only a warning.
    """
    unfinished = _unfinished_receipts(files, inventory, targets)
    problems = [line for target in targets for line in _differences(target, inventory, unfinished)]
    if problems:
        raise IncompatibleTarget(
            "the recipe describes these targets differently from what is stored:\n"
            + "\n".join(f"  {line}" for line in problems)
            + "\nGive the new target another name (tasks.*.name, or another teacher name), restore what changed, or, if"
            f" the stored part was never committed, {inventory.how_to_give_up}"
        )


@dataclass(frozen=True)
class _Record:
    """How one target was made, as a commit or a receipt records it."""

    fingerprint: str
    declaration: Declaration
    versions: Mapping[str, str]


def _unfinished_receipts(files: Files, inventory: Inventory, targets: Sequence[BuildTarget]) -> list[Receipt]:
    """Return the receipts of unfinished builds for targets that are not committed.

    A commit decides what a target is: a builder that lost against it may have left receipts of another target.
    """
    open_names = {t.name for t in targets} - set(inventory.manifests)
    receipts = [r for r in inventory.receipts.values() if r.shard.target in open_names]
    wanted = {t.fingerprint for t in targets}
    if inventory.state is None or all(r.fingerprint in wanted for r in receipts):
        return receipts
    # Receipts of earlier commits, of a target that was dropped since, are not unfinished work.
    history = committed_unit_keys(files)
    return [r for r in receipts if r.shard.unit_key not in history]


def _differences(target: BuildTarget, inventory: Inventory, unfinished: Sequence[Receipt]) -> list[str]:
    """Return how a target differs from what is stored under its name, nothing if it does not."""
    for record in _records(target.name, inventory.committed(target.name), unfinished):
        if record.fingerprint != target.fingerprint:
            old, new = short_declaration(record.declaration), short_declaration(target.declaration)
            return [
                f"{target.name}: fingerprint {record.fingerprint[:12]} is stored; the recipe's is "
                f"{target.fingerprint[:12]}",
                *(f"{target.name}: {line}" for line in differences(old, new)),
            ]
        changed = differences(record.versions, versions(target.libraries))
        if changed:
            log.warning("%s was built with other library versions: %s", target.name, "; ".join(changed))
            return []
    return []


def _records(name: str, committed: CommittedTarget | None, unfinished: Sequence[Receipt]) -> list[_Record]:
    """Return what is recorded under a target's name: the commit first, then receipts."""
    found: list[CommittedTarget | Receipt] = [] if committed is None else [committed]
    found += [r for r in unfinished if r.shard.target == name]
    return [_Record(r.fingerprint, r.declaration, r.versions) for r in found]


def check_augmentation(state: State | None, declared: AugmentationDeclaration | None) -> None:
    """Raise IncompatibleTarget unless the recipe augments samples as the cache does."""
    if state is None:
        return
    record = state.commit.augmentation
    changed = differences(None if record is None else record["declaration"], declared, "augmentation")
    if changed:
        raise IncompatibleTarget(
            "the recipe makes views differently from the cache:\n"
            + "\n".join(f"  {line}" for line in changed)
            + "\nAugment as the cache does (the number of views may grow), or build another cache."
        )


def check_keep(state: State | None, keep: dict[str, str]) -> None:
    """Raise IncompatibleTarget unless the kept columns and their types are those of the cache."""
    changed = [] if state is None else differences(state.commit.keep, keep, "keep")
    if changed:
        raise IncompatibleTarget(
            "the recipe keeps other columns than the cache:\n"
            + "\n".join(f"  {line}" for line in changed)
            + "\nKeep the same columns with the same types, or build another cache."
        )


def differences(old: Any, new: Any, where: str = "") -> list[str]:
    """Return where two JSON values differ, one line `path: old -> new` each."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = sorted(set(old) | set(new))
        return [d for k in keys for d in differences(old.get(k), new.get(k), f"{where}.{k}" if where else k)]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [d for a, b in zip(old, new, strict=True) for d in differences(a, b, where)]
    return [] if old == new else [f"{where}: {_short(old)} -> {_short(new)}"]


def _short(value: Any) -> str:
    text = "absent" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
