"""Garbage collection: the only thing that deletes."""

from __future__ import annotations

import time
from dataclasses import dataclass

from softcache.store.commits import latest_number, read_commit
from softcache.store.files import Files
from softcache.store.layout import CARD, MARKER, TEMPORARY, commit_path
from softcache.store.manifest import Manifest
from softcache.store.plan import extensions, read_plan_chain
from softcache.store.receipts import read_receipt, receipt_keys
from softcache.store.state import read_reference

DAY = 86_400.0


@dataclass(frozen=True)
class Garbage:
    """A file that nothing needs, its size, and why."""

    path: str
    bytes: int
    why: str


def find_garbage(files: Files, *, min_age: float = DAY, abandon: bool = False) -> list[Garbage]:
    """Return what may be deleted, in the order in which to delete it.

    Kept is everything that any commit names, and what an unfinished build needs: its plan, its receipts and their
    shards. With `abandon` the latter is given up. Files younger than `min_age` seconds are left, since a running
    build may be about to name them; what `abandon` gives up goes at any age.
    """
    needed = {MARKER, CARD}
    committed_keys: set[str] = set()
    heads: list[str | None] = [None]
    for number in range(1, latest_number(files) + 1):
        commit = read_commit(files, number)
        needed |= {commit_path(number), commit.manifest.path, *(r.path for r in commit.index)}
        needed |= {f"plan/{head}.arrow" for head in read_plan_chain(files, commit.plan)}
        heads.append(commit.plan)
        for live in Manifest(read_reference(files, commit.manifest), commit.manifest.path).live():
            committed_keys.add(live.shard.unit_key)
            needed |= {f.path for f in live.shard.files}
    given_up: set[str] = set()
    for key in receipt_keys(files):
        named = {f"receipts/{key}.json", *(f.path for f in read_receipt(files, key).shard.files)}
        if abandon and key not in committed_keys:
            given_up |= named
        else:
            needed |= named
    unfinished = {f"plan/{head}.arrow" for parent in set(heads) for head in extensions(files, parent)} - needed
    if abandon:
        given_up |= unfinished
    else:
        needed |= unfinished
    now = time.time()
    found = []
    for path, size, changed in files.walk(""):
        if path in needed:
            continue
        if path in given_up:
            found.append(Garbage(path, size, "of an unfinished build that is given up"))
        elif now - changed >= min_age and _is_ours(path):
            why = (
                "an unfinished write"
                if path.rsplit("/", 1)[-1].startswith(TEMPORARY)
                else "named by no commit and no receipt"
            )
            found.append(Garbage(path, size, why))
    return sorted(found, key=lambda g: (not g.path.startswith("receipts/"), g.path))


def collect(files: Files, garbage: list[Garbage]) -> None:
    """Delete garbage, receipts first, so that no receipt ever names a shard that is gone."""
    for item in garbage:
        files.delete(item.path)


def _is_ours(path: str) -> bool:
    """Whether a file lies where softcache writes; what a user put beside the cache is left alone."""
    folder, _, name = path.rpartition("/")
    top = folder.partition("/")[0]
    return name.startswith(TEMPORARY) or top in ("data", "plan", "receipts", "manifests", "index")
