"""`softcache info`: what a cache holds and where it comes from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from softcache.read.cache import open as open_cache
from softcache.read.target import Target
from softcache.store.commits import Commit


@dataclass(frozen=True)
class Info:
    """The newest commit of a cache and its targets, by name."""

    path: str
    commit: Commit
    targets: Mapping[str, Target]

    def to_json(self) -> dict[str, Any]:
        """Return the path and the commit as one object."""
        return {"path": self.path} | self.commit.to_json()


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
    return Info(cache.url, cache.commit, cache)
