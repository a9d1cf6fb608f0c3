"""How far a cache is: its newest commit, and what lies beyond it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from softcache.errors import FormatError
from softcache.store.commits import latest_number, read_commit
from softcache.store.files import Files, connect
from softcache.store.layout import MARKER
from softcache.store.manifest import Manifest
from softcache.store.marker import read_marker
from softcache.store.plan import extensions, read_plan
from softcache.store.receipts import receipt_keys
from softcache.store.state import read_reference, read_state


@dataclass(frozen=True)
class Status:
    """The newest commit (0 before the first), and what lies beyond it: shards done, fragments planned."""

    path: str
    commit: int
    rows: int
    targets: list[str]
    pending_shards: int
    pending_fragments: int

    @property
    def complete(self) -> bool:
        """Whether something is committed and nothing is pending."""
        return self.commit > 0 and not self.pending_shards and not self.pending_fragments

    def to_json(self) -> dict[str, Any]:
        """Return the status as an object."""
        return asdict(self) | {"complete": self.complete}


def _unit_keys(files: Files, number: int) -> Iterator[str]:
    manifest = read_commit(files, number).manifest
    return (live.shard.unit_key for live in Manifest(read_reference(files, manifest), manifest.path).live())


def status(url: str | os.PathLike[str]) -> Status:
    """Return how far a cache is. Raises FormatError if there is none."""
    files = connect(url)
    if read_marker(files) is None:
        raise FormatError(f"{files.url}: not a softcache cache: it has no {MARKER}")
    done = receipt_keys(files)
    if not latest_number(files):
        planned = {n for head in extensions(files, None) for n in read_plan(files, head).fragments}
        return Status(files.url, 0, 0, [], len(done), len(planned))
    state = read_state(files)
    committed = {key for number in range(1, state.commit.number + 1) for key in _unit_keys(files, number)}
    planned = {n for head in extensions(files, state.commit.plan) for n in read_plan(files, head).fragments}
    known = set(read_plan(files, state.commit.plan).fragments)
    names = list(state.commit.targets)
    return Status(files.url, state.commit.number, state.commit.rows, names, len(done - committed), len(planned - known))
