"""What can be read like a target."""

from __future__ import annotations

from typing import Any, Protocol

from softcache.soft.protocol import Soft
from softcache.tasks import TaskSpec


class Readable(Protocol):
    """A target, or an ensemble of targets."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def task(self) -> TaskSpec:
        """What it answers."""

    def lookup(
        self, ids: Any, views: Any = None, *, hashes: Any = None, input_ids: Any = None, mask_uncovered: bool = False
    ) -> Soft:
        """Return soft targets joined by sample id."""

    def read(self, rows: Any) -> Soft:
        """Return soft targets by row number."""

    def check(self, ids: Any, views: Any = None) -> None:
        """Raise AlignmentError unless the cache has all ids and some of them are covered."""
