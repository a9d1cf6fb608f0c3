"""The shards of one target: which shard a row is in, and the mapped bytes of each file."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from softcache.arrays import Array
from softcache.errors import FormatError
from softcache.read.span import Span, closed
from softcache.store.files import Files
from softcache.store.live_shards import TargetShards


class Runs(NamedTuple):
    """Runs of rows, or of items: the shard of each, its first row there, and its number of rows, int64 [runs]."""

    shard: Array
    first: Array
    rows: Array


class ShardReader:
    """The shards of one target. File k of all shards has one span, made when a column in it is first read."""

    def __init__(self, files: Files, shards: TargetShards, *, check: bool = True) -> None:
        self.shards = shards
        first_row, rows = shards.first_row, shards.rows
        has_gaps = first_row[0] != 0 or (first_row[1:] != first_row[:-1] + rows[:-1]).any()
        self._end = None if has_gaps else shards.end
        is_even = not has_gaps and (rows[:-1] == rows[0]).all() and rows[-1] <= rows[0]
        self._rows_each = int(rows[0]) if is_even else None
        self._files, self._check = files, check
        self._spans: dict[int, Span] = {}
        self._is_closed = False

    def locate(self, rows: Array) -> tuple[Array, Array, Array | None]:
        """Return the shard of each row number (int64 [n]), and the row within that shard.

        The third result says whether the target covers each row, bool [n]; it is None if the target covers them all.
        """
        first_row = self.shards.first_row
        if self._end is not None and len(rows) and rows.view(np.uint64).max() < self._end:
            each = self._rows_each
            shard = first_row.searchsorted(rows, side="right") - 1 if each is None else rows // each
            return shard, rows - first_row[shard], None
        shard = first_row.searchsorted(rows, side="right") - 1
        local = rows - first_row[shard]
        covered = (shard >= 0) & (local < self.shards.rows[shard])
        return shard, local, covered

    def runs(self, begin: int, end: int) -> Runs | None:
        """Return rows [begin, end) as runs, None if the target has gaps."""
        if self._end is None:
            return None
        first_row, rows = self.shards.first_row, self.shards.rows
        low = int(first_row.searchsorted(begin, side="right")) - 1
        shard = np.arange(low, max(int(first_row.searchsorted(end)), low))
        first = np.maximum(begin - first_row[shard], 0)
        return Runs(shard, first, np.minimum(first_row[shard] + rows[shard], end) - first_row[shard] - first)

    def span(self, file: int) -> Span:
        """Return the span of file number `file` of every shard."""
        if self._is_closed:
            raise closed(self._files)
        if file not in self._spans:
            self._spans[file] = Span(self._files, self.shards, file, check=self._check)
        return self._spans[file]

    def close(self) -> None:
        """Unmap all files. Reading them then raises StorageError."""
        self._is_closed = True
        for span in self._spans.values():
            span.close()

    def bad(self, column: str, why: str) -> FormatError:
        """Return the error for a column that is damaged."""
        return FormatError(f"{self._files.url}: target {self.shards.target}: column {column} {why}")
