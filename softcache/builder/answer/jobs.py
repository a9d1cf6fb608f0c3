"""What a teacher is given: fragments, cut into batches of samples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from softcache.arrays import Array
from softcache.builder.prepare.targets import BuildTarget
from softcache.errors import counted, name_some
from softcache.store.plan import Fragment


@dataclass(frozen=True, eq=False)
class Job:
    """A fragment to answer.

    Attributes:
        fragment: the fragment.
        positions: the positions of its samples in the transfer set, int64 [samples].
        targets: the targets that it lacks.
    """

    fragment: Fragment
    positions: Array
    targets: Sequence[BuildTarget]

    def ids(self, rows: Iterable[int]) -> list[Any]:
        """Return the sample ids of rows of the fragment."""
        return [self.fragment.sample_ids[row // self.fragment.views].as_py() for row in rows]

    def names(self, rows: Iterable[int]) -> list[Any]:
        """Return how messages name rows: by sample id, and where there are several views by (sample id, view)."""
        rows, fragment = list(rows), self.fragment
        if fragment.first_view + fragment.views == 1:
            return self.ids(rows)
        views = (fragment.first_view + row % fragment.views for row in rows)
        return list(zip(self.ids(rows), views, strict=True))

    def listed(self, bad: dict[int, str]) -> str:
        """Return bad rows, given with their reasons, grouped by reason."""
        reasons: dict[str, list[Any]] = {}
        for row, reason in sorted(bad.items()):
            reasons.setdefault(reason, []).extend(self.names([row]))
        return "; ".join(
            f"{counted(len(ids), 'sample')} ({name_some(ids)}): {reason}" for reason, ids in reasons.items()
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class Batch:
    """A collated batch.

    Attributes:
        job: the job that it is part of.
        rows: its good rows, as numbers in the fragment.
        inputs: the teacher's input for these, None if there are none.
        bad: why other rows are bad, by row.
        size: how many rows there are, good and bad.
    """

    job: Job
    rows: list[int]
    inputs: Any
    bad: dict[int, str]
    size: int

    @property
    def named(self) -> str:
        """Some of its samples, for messages."""
        return name_some(self.job.names(self.rows))
