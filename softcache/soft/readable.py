"""What can be read like a target."""

from __future__ import annotations

from typing import Any, Protocol

from softcache.soft.keys import RowKeys
from softcache.soft.protocol import Soft
from softcache.soft.sequences import SoftSequences
from softcache.tasks import TaskSpec


class Readable(Protocol):
    """A target, or several that are combined when they are read."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def task(self) -> TaskSpec:
        """What it answers."""

    @property
    def most_views(self) -> int:
        """How many views of a sample its cache has at most."""

    def lookup(
        self, ids: Any, views: Any = None, *, hashes: Any = None, input_ids: Any = None, mask_uncovered: bool = False
    ) -> Soft:
        """Return soft targets joined by sample id."""

    def lookup_spans(
        self, ids: Any, starts: Any, lengths: Any, views: Any = None, *, input_ids: Any = None
    ) -> SoftSequences:
        """Return spans of sequences, joined by sample id."""

    def read(self, rows: Any) -> Soft:
        """Return soft targets by row number."""

    def check(self, ids: Any, views: Any = None) -> None:
        """Raise AlignmentError unless the cache has all ids and some of them are covered."""

    def covered_keys(self, split: str | None = None) -> RowKeys:
        """Return the ids and views of the rows that are covered (in a split), in the order of their numbers."""
