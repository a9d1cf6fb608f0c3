"""The summary of a finished build: targets, rows, bytes, the teachers' accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from softcache.builder.prepare.targets import BuildTarget
from softcache.read.cache import Cache
from softcache.store.files import Files
from softcache.transfer.labels import right_values

_NUMBERS = 2**24


@dataclass(frozen=True, kw_only=True)
class TargetSummary:
    """One target: its rows, how many have an answer, its bytes, and its accuracy (None without labels)."""

    name: str
    rows: int
    valid: int
    bytes: int
    bytes_per_row: float
    accuracy: float | None


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A finished build.

    `answered` counts the samples that teachers answered in this run; `up_to_date` says that nothing was left to do.
    """

    path: str
    commit: int
    rows: int
    targets: list[TargetSummary]
    answered: int
    seconds: float
    up_to_date: bool

    def to_json(self) -> dict[str, Any]:
        """Return the summary as an object."""
        return asdict(self)


def summarise(
    files: Files, targets: Sequence[BuildTarget], answered: int, seconds: float, *, up_to_date: bool
) -> Summary:
    """Return the summary of the newest commit, read from the cache as any user would."""
    cache = Cache(files)
    labels = {t.name: t.label for t in targets if t.label is not None and t.task.traits.has_label}
    kept = cache.rows.table() if labels else None
    found = []
    for name in sorted(target.name for target in targets):
        target = cache.committed(name)
        label = labels.get(name)
        found.append(
            TargetSummary(
                name=name,
                rows=target.rows,
                valid=target.valid,
                bytes=target.bytes,
                bytes_per_row=target.bytes / target.rows,
                accuracy=None if label is None or kept is None else _accuracy(cache, name, kept[label]),
            )
        )
    return Summary(
        path=files.url,
        commit=cache.commit.number,
        rows=cache.commit.rows,
        targets=found,
        answered=answered,
        seconds=seconds,
        up_to_date=up_to_date,
    )


def _accuracy(cache: Cache, name: str, labels: pa.ChunkedArray) -> float | None:
    """Return how often the likeliest class is the label, over labelled rows with an answer; None without labels."""
    target = cache[name]
    truth = right_values(target.task, labels.to_pylist())
    if truth is None:
        return None
    covered, at_once = target.covered_rows(), max(_NUMBERS // target.task.shape[0], 1)
    right = valid = 0
    for begin in range(0, len(covered), at_once):
        rows = covered[begin : begin + at_once]
        soft = target.read(rows)
        expected = truth[rows]
        mask = soft.mask.numpy() & (expected >= 0)
        top = soft.log_probs().argmax(1).numpy()
        right += int((top == expected)[mask].sum())
        valid += int(mask.sum())
    return right / valid if valid else None
