"""What `rows` records of views: their checks, and their parameters."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from softcache.arrays import Array
from softcache.builder.prepare.inventory import Inventory
from softcache.builder.prepare.units import Unit
from softcache.errors import AlignmentError, FormatError, IntegrityError, name_some
from softcache.once import once
from softcache.store import arrow
from softcache.store.declarations import AugmentationDeclaration
from softcache.store.files import Files
from softcache.store.layout import ROWS
from softcache.store.live_shards import LiveShard
from softcache.store.plan import Fragment
from softcache.store.receipts import Receipt
from softcache.store.references import read_reference
from softcache.store.shards import Shard
from softcache.transfer.augmentation import PARTNER, Parameters
from softcache.transfer.libraries import versions_here
from softcache.transfer.view_checks import CHECK_BYTES


@dataclass(frozen=True, eq=False)
class RecordedViews:
    """What `rows` holds of one fragment's views.

    Attributes:
        checks: their checks, uint8 [rows, 8].
        parameters: their parameters, None where the transform draws none.
        versions: the versions of the libraries that made them.
    """

    checks: Array
    parameters: list[Parameters | None] | None
    versions: dict[str, str]

    @classmethod
    def empty(cls, rows: int, *, draws: bool) -> RecordedViews:
        """Return the record of views that are all still to be made."""
        return cls(np.zeros((rows, CHECK_BYTES), np.uint8), [None] * rows if draws else None, {})

    @once
    def here(self) -> dict[str, str]:
        """The versions that are installed now of the libraries that made them."""
        return versions_here(self.versions)

    def equals(self, other: RecordedViews) -> bool:
        """Whether two records are of the same views: the same checksums and the same parameters."""
        return np.array_equal(other.checks[:, :4], self.checks[:, :4]) and other.parameters == self.parameters


class ViewRecords:
    """Finds the recorded views of a build's fragments: in shards of `rows` from before, or written by this build."""

    def __init__(
        self, files: Files, inventory: Inventory, units: Iterable[Unit], declared: AugmentationDeclaration
    ) -> None:
        """`declared` is the build's augmentation: shards with another one are not used."""
        self._files, self._inventory = files, inventory
        self._units = {u.fragment.number: u for u in units if u.target is None}
        self._written: dict[int, Receipt] = {}
        receipts = [r for r in inventory.receipts.values() if r.declaration.get("augmentation") == declared]
        committed = _committed_versions(inventory)
        shards = [(r.shard, r.versions) for r in receipts]
        shards += [(live.shard, committed) for live in inventory.shards(ROWS).values()]
        shards.sort(key=lambda each: inventory.has_files(each[0]))
        # All shards with one keys hash record the same views. One whose file is there is preferred: the last one wins.
        self._shards = {shard.keys_sha256: (shard, made_by) for shard, made_by in shards if shard.target == ROWS}

    def add(self, fragment: Fragment, receipt: Receipt) -> None:
        """Remember the shard of `rows` that this build has just written for a fragment."""
        self._written[fragment.number] = receipt

    def find(self, fragment: Fragment) -> RecordedViews | None:
        """Return what is recorded of a fragment's views, None if they are still to be made.

        Raises IntegrityError if the record is lost and cannot be made again.
        """
        written, key = self._written.get(fragment.number), self._units[fragment.number].key
        found = self._shards.get(fragment.keys_sha256) if written is None else (written.shard, written.versions)
        if found is None:
            return None
        shard, versions = found
        if written is None and not self._inventory.has_files(shard):
            if shard.unit_key == key:
                return None  # this build makes the same file again
            raise IntegrityError(
                f"{self._files.url}/{shard.files[0].path}: missing, and it records which views the teachers saw; "
                "restore it, or build once more with the kept columns as they were, which makes it again"
            )
        return read_recorded(self._files, shard, versions)


def _committed_versions(inventory: Inventory) -> dict[str, str]:
    """Return the versions of the libraries that made the committed views.

    A commit does not say which shard was made with which. Where there were several of a library, all are given.
    """
    augmentation = None if inventory.state is None else inventory.state.commit.augmentation
    sets = [] if augmentation is None else augmentation["versions"]
    names = sorted({name for each in sets for name in each})
    return {name: " or ".join(sorted({each.get(name, "absent") for each in sets})) for name in names}


def check_partners(files: Files, shards: Iterable[LiveShard], changed: Mapping[int, pa.Array]) -> None:
    """Raise AlignmentError if changed samples (ids by fragment) are mixed into views of other fragments."""
    others = {sample_id for ids in changed.values() for sample_id in ids.to_pylist()}
    mixed: list[Any] = []
    for live in shards:
        if live.shard.target == ROWS and live.fragment not in changed:
            drawn = read_recorded(files, live.shard, {}).parameters or []
            mixed += [one[PARTNER] for one in drawn if one is not None and one.get(PARTNER) in others]
    if mixed:
        raise AlignmentError(
            f"{files.url}: samples {name_some(sorted(set(mixed)))} have changed, and they are mixed into views of "
            "other samples: those views and their answers show the old samples. Restore them, or build another cache"
        )


def read_recorded(files: Files, shard: Shard, versions: dict[str, str]) -> RecordedViews:
    """Read what a `rows` shard holds of its views, checked. Raises IntegrityError or FormatError."""
    where = f"{files.url}/{shard.files[0].path}"
    batch = arrow.load(read_reference(files, shard.files[0]), where)
    try:
        checks = arrow.numbers(batch["check"].values.values).reshape(-1, CHECK_BYTES)
        drawn = None
        if "parameters" in batch.schema.names:
            drawn = [one for text in batch["parameters"].to_pylist() for one in json.loads(text)]
    except (KeyError, AttributeError, TypeError, ValueError, RecursionError) as e:
        raise FormatError(f"{where}: its views are not recorded as they should be: {e!r}") from e
    if len(checks) != shard.rows or (drawn is not None and len(drawn) != shard.rows):
        raise FormatError(f"{where}: it does not record each of its {shard.rows:,} views")
    return RecordedViews(checks, drawn, versions)
