"""`softcache info`: what a cache holds and where it comes from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from softcache.read.cache import open as open_cache
from softcache.read.target import Target
from softcache.store.commits import Commit
from softcache.store.manifest import CommittedTarget


@dataclass(frozen=True)
class Info:
    """The newest commit of a cache, what it says about each target, and its targets by name."""

    path: str
    commit: Commit
    committed: Mapping[str, CommittedTarget]
    targets: Mapping[str, Target]

    def to_json(self) -> dict[str, Any]:
        """Return the path, the commit and what it says about each target as one object."""
        targets = {name: target.to_json() for name, target in self.committed.items()}
        return {"path": self.path} | self.commit.to_json() | {"targets": targets}


def info(url: str | os.PathLike[str]) -> Info:
    """Describe a cache: its newest commit, and each target's task, codec, statistics, errors and provenance.

    Raises as `softcache.open`. A target whose codec this version does not know raises UnsupportedVersion only when it
    is looked up.

    Examples:
        >>> found = softcache.info("runs/digits")
        >>> found.commit.rows, found.targets["digit@a"].task.kind
        (1797, 'classification')
    """
    cache = open_cache(url)
    return Info(cache.url, cache.commit, {name: cache.committed(name) for name in cache.targets}, cache)
