"""What a writer needs in order to name new files (docs/format.md, section 12)."""

from __future__ import annotations

from dataclasses import dataclass

from softcache.store.files import Files
from softcache.store.layout import epoch_suffix


@dataclass(frozen=True, eq=False)
class Writer:
    """The files of a cache, and the epoch of those who write to it.

    The epoch is the number of the newest commit in which garbage was condemned, 0 if there is none. New names carry it,
    so that no file ever gets the name of one that is condemned.
    """

    files: Files
    epoch: int = 0

    def named(self, digest: str) -> str:
        """Return a hash as it stands in the name of a new file."""
        return f"{digest}{epoch_suffix(self.epoch)}"
