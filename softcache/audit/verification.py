"""What `softcache verify` finds."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Problem:
    """Something that is wrong, and the file."""

    path: str
    what: str


@dataclass(kw_only=True)
class Verification:
    """What was checked, and every problem found.

    `signers` are those who have signed the newest commit, if the caller asked for signatures.

    `links` are the files that lie behind symbolic links. They are no problem, but a copy of the cache may lack them,
    and whoever can change what a link points to can change the cache.
    """

    path: str
    level: str
    commit: int = 0
    files: int = 0
    bytes: int = 0
    signers: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether no problem was found."""
        return not self.problems

    def to_json(self) -> dict[str, Any]:
        """Return it as an object."""
        return asdict(self) | {"ok": self.ok}
