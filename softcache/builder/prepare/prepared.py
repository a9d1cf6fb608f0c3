"""A build before any teacher runs: what the cache holds, and what is left to do."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, replace

import numpy as np
from tqdm import tqdm

from softcache.builder.prepare.augmentation import declare_augmentation, load_augmentation
from softcache.builder.prepare.cache_checks import check_augmentation, check_keep, check_targets
from softcache.builder.prepare.fragments import Work, plan_fragments
from softcache.builder.prepare.inventory import Inventory, read_inventory
from softcache.builder.prepare.targets import BuildTarget, build_targets, rows_declaration, rows_fingerprint
from softcache.builder.prepare.transfer_set import open_transfer_set
from softcache.builder.prepare.units import Unit, all_units
from softcache.builder.prepare.view_records import check_partners
from softcache.errors import CommitConflict, IncompatibleTarget, IncompleteCache
from softcache.once import once
from softcache.recipe import Recipe
from softcache.store.card import write_first_card
from softcache.store.declarations import RowsDeclaration
from softcache.store.files import Files, connect
from softcache.store.layout import ROWS
from softcache.store.marker import check_output, ensure_marker
from softcache.store.writer import Writer
from softcache.transfer import Scan, TransferSet
from softcache.transfer.augmentation import Augmentation

KEPT_SAMPLE = 256


@dataclass(frozen=True, eq=False, kw_only=True)
class PreparedBuild:
    """A build before any teacher runs.

    Attributes:
        recipe: the recipe.
        files: the cache's files.
        transfer_set: the samples.
        scan: their ids and hashes.
        targets: the targets to build.
        rows_declaration: what the fingerprint of `rows` is made of.
        augmentation: how views are made, None without augmentation.
        kept_bytes: about how many bytes the kept columns of a sample take.
        inventory: what the cache holds.
        work: the fragments.
        units: every shard that the finished build has.
    """

    recipe: Recipe
    files: Files
    transfer_set: TransferSet
    scan: Scan
    targets: list[BuildTarget]
    rows_declaration: RowsDeclaration
    augmentation: Augmentation | None
    kept_bytes: float
    inventory: Inventory
    work: Work
    units: list[Unit]

    @property
    def out(self) -> Writer:
        """Where new files go."""
        return Writer(self.files, self.inventory.epoch)

    @once
    def todo(self) -> list[Unit]:
        """The units that have neither a receipt nor a place in the newest commit."""
        return [u for u in self.units if u.shard_in(self.inventory) is None]


def prepare(
    recipe: Recipe,
    output: str | os.PathLike[str],
    *,
    limit: int | None = None,
    write: bool = True,
    progress: bool = False,
    stop: threading.Event | None = None,
) -> PreparedBuild:
    """Read the transfer set and the cache, and plan. With `write` false the cache is left as it is, or absent.

    Raises IncompleteCache if `stop` is set meanwhile.
    """
    files = connect(output)
    if write:
        files.check_writable()
    check_output(files)
    targets = build_targets(recipe)
    declared, augmentation = declare_augmentation(recipe), load_augmentation(recipe)
    transfer_set = open_transfer_set(recipe, limit)
    inventory = read_inventory(files, [target.name for target in targets])
    check_augmentation(inventory.state, declared)
    check_targets(files, inventory, targets)
    scan = _scan(transfer_set, progress, stop)
    keep = transfer_set.table(np.arange(min(len(transfer_set), KEPT_SAMPLE)), transfer_set.keep)
    declaration = rows_declaration(keep.schema, scan.sample_ids.type, declared)
    check_keep(inventory.state, declaration["keep"])
    if write:
        ensure_marker(files)
        write_first_card(files)
    work = plan_fragments(files, inventory, transfer_set, scan, recipe.build.fragment_rows, recipe.views, write=write)
    if augmentation is not None and augmentation.mixes and work.changed:
        check_partners(files, inventory.shards(ROWS).values(), work.changed)
    return PreparedBuild(
        recipe=recipe,
        files=files,
        transfer_set=transfer_set,
        scan=scan,
        targets=targets,
        rows_declaration=declaration,
        augmentation=augmentation,
        kept_bytes=keep.nbytes / min(len(transfer_set), KEPT_SAMPLE),
        inventory=inventory,
        work=work,
        units=all_units(work, scan, targets, rows_fingerprint(declaration)),
    )


def rebase(prepared: PreparedBuild) -> PreparedBuild:
    """Return the same build on top of what another writer has committed. Finished work has receipts and stays.

    Raises CommitConflict where the two contradict each other.
    """
    files = prepared.files
    inventory = read_inventory(files, [target.name for target in prepared.targets])
    try:
        check_augmentation(inventory.state, prepared.rows_declaration.get("augmentation"))
        check_targets(files, inventory, prepared.targets)
        check_keep(inventory.state, prepared.rows_declaration["keep"])
    except IncompatibleTarget as e:
        raise CommitConflict(f"{files.url}: another writer has committed in the meantime; {e}") from e
    rows, views = prepared.recipe.build.fragment_rows, prepared.recipe.views
    work = plan_fragments(files, inventory, prepared.transfer_set, prepared.scan, rows, views)
    units = all_units(work, prepared.scan, prepared.targets, rows_fingerprint(prepared.rows_declaration))
    return replace(prepared, inventory=inventory, work=work, units=units)


def _scan(transfer_set: TransferSet, progress: bool, stop: threading.Event | None) -> Scan:
    with tqdm(
        total=len(transfer_set), unit=" samples", desc="reading", disable=not progress, leave=False, delay=1
    ) as bar:

        def advance(samples: int) -> None:
            if stop is not None and stop.is_set():
                raise IncompleteCache("stopped while reading the transfer set; run the same command again")
            bar.update(samples)

        return transfer_set.scan(advance)
