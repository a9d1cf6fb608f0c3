"""What a build is before any teacher runs: what there is, what is to be done, and by whom."""

from __future__ import annotations

import itertools
import logging
import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from tqdm import tqdm

from softcache.builder.augmenting import declare_augmentation, load_augmentation
from softcache.builder.jobs import Job
from softcache.builder.pipeline import Runner
from softcache.builder.planning import Work, open_transfer_set, plan_work, teacher_reads
from softcache.builder.samples import AugmentedSamples, Samples
from softcache.builder.targets import BuildTarget, build_targets, rows_declaration, rows_fingerprint
from softcache.builder.units import Stored, Unit, all_units, check_augmentation, check_keep, check_targets, read_stored
from softcache.builder.view_records import RecordedViews, check_partners, read_recorded
from softcache.errors import (
    CommitConflict,
    IncompatibleTarget,
    IncompleteCache,
    IntegrityError,
    SoftcacheError,
    TeacherError,
)
from softcache.recipe import Recipe
from softcache.store.card import write_first_card
from softcache.store.commits import latest_number
from softcache.store.files import Files, connect
from softcache.store.layout import ROWS
from softcache.store.marker import ensure_marker, read_marker
from softcache.store.plan import Fragment
from softcache.store.receipts import Receipt, read_receipt
from softcache.store.shards import Shard
from softcache.store.state import State, read_state
from softcache.teachers import Adapter, Teacher
from softcache.transfer import Scan, TransferSet
from softcache.transfer.augmentation import Augmentation

KEPT_SAMPLE = 256
log = logging.getLogger("softcache")


@dataclass(frozen=True, eq=False)
class Prepared:
    """A build before any teacher runs: what there is, and what is to be done."""

    recipe: Recipe
    files: Files
    transfer_set: TransferSet
    scan: Scan
    targets: list[BuildTarget]
    rows_declaration: dict[str, Any]
    augmentation: Augmentation | None
    kept_bytes: float
    stored: Stored
    work: Work
    units: list[Unit]

    @property
    def todo(self) -> list[Unit]:
        """The units that have neither a receipt nor a place in the newest commit."""
        return [u for u in self.units if not self.stored.has(u)]


def prepare(
    recipe: Recipe,
    output: str | os.PathLike[str],
    *,
    limit: int | None = None,
    write: bool = True,
    progress: bool = False,
    stop: threading.Event | None = None,
) -> Prepared:
    """Read the transfer set and the cache, and plan. With `write` false the cache is left as it is, or absent.

    Raises IncompleteCache if `stop` is set meanwhile.
    """
    files = connect(output)
    targets = build_targets(recipe)
    declared, augmentation = declare_augmentation(recipe), load_augmentation(recipe)
    transfer_set = open_transfer_set(recipe, limit)
    state = newest_state(files)
    stored = read_stored(files, state)
    check_augmentation(state, declared)
    check_targets(files, stored, targets)
    scan = _scan(transfer_set, progress, stop)
    keep = transfer_set.stored(np.arange(min(len(transfer_set), KEPT_SAMPLE)), transfer_set.keep)
    kept_bytes = keep.nbytes / min(len(transfer_set), KEPT_SAMPLE)
    declaration = rows_declaration(keep.schema, scan.sample_ids.type, declared)
    check_keep(state, declaration["keep"])
    if write:
        ensure_marker(files)
        write_first_card(files)
    rows, views = recipe.build.fragment_rows, recipe.views
    work = plan_work(files, stored.plan_head, transfer_set, scan, rows, views, write=write)
    if augmentation is not None and augmentation.mixes and work.changed:
        check_partners(files, stored.live.values(), work.changed)
    units = all_units(work, scan, targets, rows_fingerprint(declaration))
    return Prepared(
        recipe, files, transfer_set, scan, targets, declaration, augmentation, kept_bytes, stored, work, units
    )


def rebase(prepared: Prepared) -> Prepared:
    """Return the same build on top of what another writer has committed. What is done has receipts and stays done.

    Raises CommitConflict where the two contradict each other.
    """
    files, state = prepared.files, newest_state(prepared.files)
    stored = read_stored(files, state)
    try:
        check_augmentation(state, prepared.rows_declaration.get("augmentation"))
        check_targets(files, stored, prepared.targets)
        check_keep(state, prepared.rows_declaration["keep"])
    except IncompatibleTarget as e:
        raise CommitConflict(f"{files.url}: another writer has committed meanwhile; {e}") from e
    rows, views = prepared.recipe.build.fragment_rows, prepared.recipe.views
    work = plan_work(files, stored.plan_head, prepared.transfer_set, prepared.scan, rows, views)
    units = all_units(work, prepared.scan, prepared.targets, rows_fingerprint(prepared.rows_declaration))
    return replace(prepared, stored=stored, work=work, units=units)


def teacher_jobs(prepared: Prepared) -> dict[str, list[Job]]:
    """Return what is left for each teacher: its fragments, and which targets they lack."""
    lacking: dict[str, dict[int, list[BuildTarget]]] = {}
    for unit in prepared.todo:
        if unit.target is not None:
            lacking.setdefault(unit.target.teacher, {}).setdefault(unit.fragment.number, []).append(unit.target)
    fragments, positions = prepared.work.plan.fragments, prepared.work.positions
    return {
        teacher: [Job(fragments[number], positions[number], targets) for number, targets in of_teacher.items()]
        for teacher, of_teacher in lacking.items()
    }


def make_samples(prepared: Prepared, receipts: Mapping[str, Receipt]) -> Samples:
    """Return what gives teachers samples, or views of them. Raises AugmentationError if they cannot be replayed.

    `receipts` are those of this build, by unit key, so far and later.
    """
    if prepared.augmentation is None:
        return Samples(prepared.transfer_set)
    units = {u.fragment.number: u.key for u in prepared.units if u.target is None}
    stored = _recorded_shards(prepared)

    def recorded(fragment: Fragment) -> RecordedViews | None:
        own = receipts.get(units[fragment.number])
        shard = stored.get(fragment.keys_sha256) if own is None else own.shard
        if shard is None:
            return None
        if own is None and not prepared.stored.is_there(shard):
            if shard.unit_key == units[fragment.number]:
                return None  # made again, it has to be the same file
            raise IntegrityError(
                f"{prepared.files.url}/{shard.files[0].path}: missing, and it records which views the teachers saw; "
                "restore it, or build once more with the kept columns as they were, which makes it again"
            )
        return read_recorded(prepared.files, shard, read_receipt(prepared.files, shard.unit_key).versions)

    samples = AugmentedSamples(prepared.transfer_set, prepared.augmentation, prepared.scan, recorded)
    for number, positions in itertools.islice(prepared.work.positions.items(), 1):
        samples.check_replays(Job(prepared.work.plan.fragments[number], positions, []))
    return samples


@contextmanager
def teacher_runner(prepared: Prepared, name: str, samples: Samples) -> Iterator[Runner]:
    """Load a teacher, give what runs it, and close it. Raises as `loaded_teacher`."""
    recipe = prepared.recipe
    reads, skip_bad = teacher_reads(recipe, name, prepared.transfer_set), recipe.build.on_bad_sample == "skip"
    with loaded_teacher(recipe, name) as teacher:
        yield Runner(name, teacher, samples, reads, recipe.build.batch_size, skip_bad=skip_bad)


@contextmanager
def loaded_teacher(recipe: Recipe, name: str) -> Iterator[Teacher]:
    """Load a teacher on the recipe's device, and close it in the end, if it has `close`.

    Raises SoftcacheError, whatever an adapter of the user's raises.
    """
    teacher = _load_teacher(recipe, name)
    try:
        yield teacher
    finally:
        try:
            if callable(close := getattr(teacher, "close", None)):
                close()
        except Exception as e:  # noqa: BLE001 - what it has answered is as good as before
            log.warning("teacher %s: close raised %s: %s", name, type(e).__name__, e)


def _load_teacher(recipe: Recipe, name: str) -> Teacher:
    adapter: Adapter = recipe.teachers[name]
    try:
        return adapter.load(recipe.folder, recipe.build.device)
    except SoftcacheError:
        raise
    except Exception as e:
        raise TeacherError(f"teacher {name}: load of {adapter.adapter} raised {type(e).__name__}: {e}") from e


def _recorded_shards(prepared: Prepared) -> dict[str, Shard]:
    """Return, by keys hash, a shard of `rows` with views of this build's declaration, whatever else it keeps.

    All that there are of a keys hash record the same; one whose file is there goes before others.
    """
    stored, declared = prepared.stored, prepared.rows_declaration["augmentation"]
    shards = [r.shard for r in stored.receipts.values() if r.declaration.get("augmentation") == declared]
    shards += [live.shard for live in stored.live.values()]
    return {s.keys_sha256: s for s in sorted(shards, key=stored.is_there) if s.target == ROWS}


def newest_state(files: Files) -> State | None:
    """Return the newest commit's state, None before the first. Raises UnsupportedVersion where it may not write."""
    there = read_marker(files, to_write=True) is not None and latest_number(files) > 0
    return read_state(files) if there else None


def _scan(transfer_set: TransferSet, progress: bool, stop: threading.Event | None) -> Scan:
    with tqdm(
        total=len(transfer_set), unit=" samples", desc="reading", disable=not progress, leave=False, delay=1
    ) as bar:

        def advance(samples: int) -> None:
            if stop is not None and stop.is_set():
                raise IncompleteCache("stopped while reading the transfer set; run the same command again")
            bar.update(samples)

        return transfer_set.scan(advance)
