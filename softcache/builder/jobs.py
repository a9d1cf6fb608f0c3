"""What a teacher is given: fragments, cut into batches of samples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from softcache.builder.targets import BuildTarget
from softcache.errors import counted, name_some
from softcache.store.plan import Fragment


@dataclass(frozen=True, eq=False)
class Job:
    """A fragment, the positions of its samples (not rows) in the transfer set, and the targets to be made for it."""

    fragment: Fragment
    positions: np.ndarray[Any, Any]
    targets: Sequence[BuildTarget]

    def ids(self, rows: Iterable[int]) -> list[Any]:
        """Return the sample ids of rows of the fragment."""
        return [self.fragment.sample_ids[row // self.fragment.views].as_py() for row in rows]

    def names(self, rows: Iterable[int]) -> list[Any]:
        """Return what to call rows in messages: their sample ids, where there are several views with the view."""
        rows, fragment = list(rows), self.fragment
        if fragment.first_view + fragment.views == 1:
            return self.ids(rows)
        views = (fragment.first_view + row % fragment.views for row in rows)
        return list(zip(self.ids(rows), views, strict=True))

    def listed(self, bad: dict[int, str]) -> str:
        """Return bad samples grouped by reason."""
        reasons: dict[str, list[Any]] = {}
        for row, reason in sorted(bad.items()):
            reasons.setdefault(reason, []).extend(self.names([row]))
        return "; ".join(
            f"{counted(len(ids), 'sample')} ({name_some(ids)}): {reason}" for reason, ids in reasons.items()
        )


@dataclass(frozen=True, eq=False)
class Batch:
    """A collated batch: its job, its good rows in the fragment, the teacher's input, and why other rows are bad."""

    job: Job
    rows: list[int]
    inputs: Any
    bad: dict[int, str]
    last: bool
    size: int

    @property
    def named(self) -> str:
        """Some of its samples, for messages."""
        return name_some(self.job.names(self.rows))
