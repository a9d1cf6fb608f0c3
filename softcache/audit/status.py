"""`softcache status`: how far a cache is."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from typing import Any

from softcache.store.commits import latest_number
from softcache.store.condemned import read_condemned
from softcache.store.files import connect
from softcache.store.marker import require_marker
from softcache.store.plan import extensions, read_plan
from softcache.store.receipts import receipt_paths, receipts_in_force
from softcache.store.state import committed_unit_keys, read_state


@dataclass(frozen=True, kw_only=True)
class Status:
    """The number of the newest commit (0 before the first), and the work beyond it: shards done, fragments planned."""

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


def status(url: str | os.PathLike[str]) -> Status:
    """Return how far a cache is. Raises FormatError if there is none.

    Examples:
        >>> status = softcache.status("runs/digits")
        >>> status.commit, status.rows, status.complete
        (1, 1797, True)
    """
    files = connect(url)
    require_marker(files)
    state = read_state(files) if latest_number(files) else None
    committed, condemned = committed_unit_keys(files), read_condemned(files, None if state is None else state.commit)
    left = [paths for key, paths in receipt_paths(files).items() if key not in committed]
    pending = sum(1 for _ in receipts_in_force(files, left, condemned))
    head = None if state is None else state.commit.plan
    known = {} if head is None else {n: f.keys_sha256 for n, f in read_plan(files, head).fragments.items()}
    planned = {
        n: f.keys_sha256 for h in extensions(files, head, condemned) for n, f in read_plan(files, h).fragments.items()
    }
    fragments = sum(known.get(n) != keys for n, keys in planned.items())
    if state is None:
        number, rows, targets = 0, 0, list[str]()
    else:
        number, rows, targets = state.commit.number, state.commit.rows, list(state.commit.targets)
    return Status(
        path=files.url,
        commit=number,
        rows=rows,
        targets=targets,
        pending_shards=pending,
        pending_fragments=fragments,
    )
