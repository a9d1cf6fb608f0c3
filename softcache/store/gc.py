"""`softcache gc`: garbage collection, the only operation that deletes files (docs/format.md, section 12).

A file is condemned before it is deleted: in a commit that changes nothing else. A builder that would have named the
file finds, when it publishes, that this commit was first; it then reads what is condemned, and makes the file again
under another name. So no commit names a file that is deleted, however long a builder or a collector sleeps.
"""

from __future__ import annotations

import os
import time
import uuid
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from softcache.errors import IncompleteCache
from softcache.store.card import write_card
from softcache.store.commits import Commit, check_may_write, latest_number, publish, read_commit
from softcache.store.condemned import read_condemned, write_condemned
from softcache.store.declarations import ParentCommit
from softcache.store.files import Files, connect
from softcache.store.layout import CARD, MARKER, ROWS, commit_path, is_collectable, is_unfinished
from softcache.store.marker import require_marker
from softcache.store.plan import extensions, plan_path, read_plan_chain
from softcache.store.receipts import receipt_paths, receipts_in_force
from softcache.store.state import State, read_manifest
from softcache.store.target_tables import tables_in_force, tables_paths
from softcache.store.writer import Writer

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

    Set `abandon` to give up the work of unfinished builds as well. All other files younger than `min_age_hours` stay:
    a running build may be about to name them, and would have to make them again. Files that no cache can have written
    are never listed. It is safe beside running builds, and deleting adds a commit, which changes nothing else.

    Raises FormatError if there is no cache, IncompleteCache before the first commit, UnsupportedVersion if the cache
    needs a newer softcache, and StorageError.

    Examples:
        >>> softcache.gc("runs/digits").files
        []
    """
    files = connect(url)
    collector = collect if delete else find_garbage
    return Collection(files.url, delete, collector(files, min_age=min_age_hours * HOUR, abandon=abandon))


def find_garbage(files: Files, *, min_age: float = DAY, abandon: bool = False) -> list[Garbage]:
    """Return what may be deleted, ordered by path.

    Everything that any commit names is kept, and so is what an unfinished build needs: its plan, its receipts and their
    shards and tables. `abandon` gives up the unfinished builds, whatever the age of their files. All other files
    younger than `min_age` seconds are kept.
    """
    return _find(files, _newest(files), min_age, abandon=abandon)


def collect(files: Files, *, min_age: float = DAY, abandon: bool = False) -> list[Garbage]:
    """Condemn garbage, delete it and return it."""
    while True:
        newest = _newest(files)
        garbage = _find(files, newest, min_age, abandon=abandon)
        condemned = read_condemned(files, newest)
        paths = [g.path for g in garbage if g.path not in condemned and not is_unfinished(g.path)]
        if not paths or _condemn(files, newest, paths):
            break
    for item in garbage:
        files.delete(item.path)
    return garbage


def _condemn(files: Files, newest: Commit, paths: list[str]) -> bool:
    """Publish a commit that condemns files; return False if another commit was faster."""
    number = newest.number + 1
    commit = replace(
        newest,
        number=number,
        parent=ParentCommit(number=newest.number, sha256=newest.sha256),
        epoch=number,
        condemned=(*newest.condemned, write_condemned(Writer(files, newest.epoch), paths)),
        dropped=[],
        transaction=str(uuid.uuid4()),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    published = publish(files, commit)
    if published is None:
        return False
    write_card(files, State(files, published))
    return True


def _find(files: Files, newest: Commit, min_age: float, *, abandon: bool) -> list[Garbage]:
    needed, given_up = _needed(files, newest, abandon=abandon)
    condemned = read_condemned(files, newest)
    now = time.time()
    found = []
    for path, size, changed in files.walk(""):
        if path in needed or not is_collectable(path):
            continue
        if path in condemned:
            found.append(Garbage(path, size, "condemned before, and not yet deleted"))
        elif path in given_up:
            found.append(Garbage(path, size, "part of an unfinished build that is given up"))
        elif now - changed >= min_age:
            why = "an unfinished write" if is_unfinished(path) else "named by no commit and no receipt"
            found.append(Garbage(path, size, why))
    return sorted(found, key=lambda g: g.path)


def _newest(files: Files) -> Commit:
    """Return the newest commit.

    Raises FormatError if this is not a cache, UnsupportedVersion if a newer softcache may need other files.
    """
    require_marker(files)
    number = latest_number(files)
    if not number:
        raise IncompleteCache(
            f"{files.url}: nothing is committed yet, so nothing can be told to be garbage; finish the build, or delete "
            "the folder to give it up"
        )
    newest = read_commit(files, number)
    check_may_write(files, newest)
    return newest


def _needed(files: Files, newest: Commit, *, abandon: bool) -> tuple[set[str], set[str]]:
    """Return the files that are needed, and those that are free only because `abandon` gives up unfinished builds."""
    condemned = read_condemned(files, newest)
    documents = {key: [p for p in paths if p not in condemned] for key, paths in tables_paths(files).items()}
    receipts = {key: [p for p in paths if p not in condemned] for key, paths in receipt_paths(files).items()}
    needed = {MARKER, CARD}
    heads: set[str | None] = {None}
    read: set[str] = set()
    for number in range(1, newest.number + 1):
        commit = newest if number == newest.number else read_commit(files, number)
        needed |= {commit_path(number), *(r.path for r in (*commit.index, *commit.condemned))}
        if commit.plan not in heads:
            needed |= {plan_path(head) for head in read_plan_chain(files, commit.plan)}
            heads.add(commit.plan)
        for name, reference in commit.manifests.items():
            needed.add(reference.path)
            if reference.path in read:
                continue
            read.add(reference.path)
            manifest = read_manifest(files, name, reference)
            if name != ROWS:
                target = manifest.committed()
                needed |= {*(table.path for table in target.tables.values()), *documents.get(target.fingerprint, ())}
            for live in manifest.live():
                needed |= {*(f.path for f in live.shard.files), *receipts.pop(live.shard.unit_key, ())}
    unfinished = {plan_path(head) for parent in heads for head in extensions(files, parent, condemned)}
    for path, receipt in receipts_in_force(files, receipts.values(), condemned):
        unfinished |= {path, *(f.path for f in receipt.shard.files)}
        found = tables_in_force(files, documents.get(receipt.fingerprint, ()), condemned)
        if found is not None:
            unfinished |= {found[0], *(table.path for table in found[1].tables.values())}
    unfinished -= needed
    return (needed, unfinished) if abandon else (needed | unfinished, set())
