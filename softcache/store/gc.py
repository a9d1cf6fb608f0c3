"""`softcache gc`: garbage collection, the only operation that deletes files."""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass
from typing import Any

from softcache.store.commits import latest_number, read_commit
from softcache.store.files import Files, connect
from softcache.store.layout import CARD, MARKER, TEMPORARY, commit_path
from softcache.store.manifest import Manifest
from softcache.store.marker import require_marker
from softcache.store.plan import extensions, read_plan_chain
from softcache.store.receipts import read_receipt, receipt_keys
from softcache.store.state import read_reference
from softcache.store.target_tables import read_tables, tables_path

HOUR = 3_600.0
DAY = 24 * HOUR


@dataclass(frozen=True)
class Garbage:
    """A file that nothing needs, its size in bytes, and why nothing needs it."""

    path: str
    bytes: int
    why: str


@dataclass(frozen=True)
class Collection:
    """Files that nothing needs. `deleted` says whether they have been deleted."""

    path: str
    deleted: bool
    files: list[Garbage]

    def to_json(self) -> dict[str, Any]:
        """Return the collection as a JSON object."""
        return asdict(self)


def gc(
    url: str | os.PathLike[str], *, delete: bool = False, abandon: bool = False, min_age_hours: float = 24.0
) -> Collection:
    """List the files of a cache that no commit and no unfinished build needs; delete them if `delete` is set.

    Set `abandon` to give up the work of unfinished builds as well. All other files younger than `min_age_hours` stay,
    because a running build may be about to name them. Raises FormatError if there is no cache, UnsupportedVersion if
    the cache needs a newer softcache, and StorageError.

    Examples:
        >>> softcache.gc("runs/digits").files
        []
    """
    files = connect(url)
    collector = collect if delete else find_garbage
    return Collection(files.url, delete, collector(files, min_age=min_age_hours * HOUR, abandon=abandon))


def find_garbage(files: Files, *, min_age: float = DAY, abandon: bool = False) -> list[Garbage]:
    """Return what may be deleted, in the order in which to delete it.

    Everything that any commit names is kept, and so is what an unfinished build needs: its plan, its receipts and their
    shards. `abandon` gives up the unfinished builds, whatever the age of their files. All other files younger than
    `min_age` seconds are kept, since a running build may be about to name them.
    """
    needed, given_up = _needed(files, abandon=abandon)
    now = time.time()
    found = []
    for path, size, changed in files.walk(""):
        if path in needed:
            continue
        if path in given_up:
            found.append(Garbage(path, size, "part of an unfinished build that is given up"))
        elif now - changed >= min_age and _is_ours(path):
            unfinished = path.rsplit("/", 1)[-1].startswith(TEMPORARY)
            found.append(
                Garbage(path, size, "an unfinished write" if unfinished else "named by no commit and no receipt")
            )
    return sorted(found, key=lambda g: (not g.path.startswith("receipts/"), g.path))


def collect(files: Files, *, min_age: float = DAY, abandon: bool = False) -> list[Garbage]:
    """Delete garbage and return it. Receipts go first, so that no receipt ever names a shard that is gone.

    Commits and receipts are read again just before, to spare what was published in the meantime.
    """
    garbage = find_garbage(files, min_age=min_age, abandon=abandon)
    needed, _ = _needed(files, abandon=abandon)
    garbage = [item for item in garbage if item.path not in needed]
    for item in garbage:
        files.delete(item.path)
    return garbage


def _needed(files: Files, *, abandon: bool) -> tuple[set[str], set[str]]:
    """Return the files that are needed, and those that are free only because `abandon` gives up unfinished builds.

    Raises FormatError if this is not a cache, UnsupportedVersion if a newer softcache may need other files.
    """
    require_marker(files, to_write=True)
    needed = {MARKER, CARD}
    committed: set[str] = set()
    heads: set[str | None] = {None}
    for number in range(1, latest_number(files) + 1):
        commit = read_commit(files, number)
        needed |= {commit_path(number), commit.manifest.path, *(r.path for r in commit.index)}
        for target in commit.targets.values():
            if target.tables:
                needed |= {tables_path(target.fingerprint), *(table.path for table in target.tables.values())}
        if commit.plan not in heads:
            needed |= {f"plan/{head}.arrow" for head in read_plan_chain(files, commit.plan)}
            heads.add(commit.plan)
        for live in Manifest(read_reference(files, commit.manifest), commit.manifest.path).live():
            committed.add(live.shard.unit_key)
            needed |= {f.path for f in live.shard.files}
    unfinished = {f"plan/{head}.arrow" for parent in heads for head in extensions(files, parent)}
    tabled = {name.removesuffix(".json") for name in files.names("tables") if name.endswith(".json")}
    for key in receipt_keys(files):
        receipt = read_receipt(files, key)
        named = {f"receipts/{key}.json", *(f.path for f in receipt.shard.files)}
        if receipt.fingerprint in tabled:
            tables = read_tables(files, receipt.fingerprint).tables.values()
            named |= {tables_path(receipt.fingerprint), *(table.path for table in tables)}
        if key in committed:
            needed |= named
        else:
            unfinished |= named
    unfinished -= needed
    return (needed, unfinished) if abandon else (needed | unfinished, set())


def _is_ours(path: str) -> bool:
    """Whether a file lies where softcache writes. Files that a user put beside the cache are left alone."""
    folder, _, name = path.rpartition("/")
    top = folder.partition("/")[0]
    return name.startswith(TEMPORARY) or top in ("data", "plan", "receipts", "manifests", "index", "tables")
