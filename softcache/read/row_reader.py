"""From row numbers of one target to soft targets: where rows lie, which are covered, and their columns."""

from __future__ import annotations

import numpy as np
import pyarrow.compute as pc
import torch

from softcache.arrays import Array
from softcache.codecs import Codec
from softcache.errors import AlignmentError, TaskError, counted, name_some
from softcache.read.arrow_tables import shards_of
from softcache.read.columns import FixedColumn, FlagColumn
from softcache.read.sequences import SequenceReader, Spans
from softcache.read.shard_reader import ShardReader
from softcache.soft.keys import DeferredKeys, RowKeys
from softcache.soft.sequences import SoftSequences
from softcache.soft.targets import SoftTargets
from softcache.store.files import Files
from softcache.store.live_shards import TargetShards

Columns = dict[str, FixedColumn] | SequenceReader


class RowReader:
    """Reads rows of one target, perhaps of one split. Its files are mapped when rows are first read."""

    def __init__(
        self, files: Files, shards: TargetShards, codec: Codec, split: str | None, *, has_gaps: bool, check: bool
    ) -> None:
        """`has_gaps` says that some rows have no answer; otherwise the stored `valid` flags are not read."""
        self._shards, self._codec, self._decoder, self._split = shards, codec, codec.decoder, split
        self._has_gaps = has_gaps
        self._reader = ShardReader(files, shards, check=check)
        self._in_split: Array = np.ones(len(shards.rows), np.bool_)
        if split is not None:
            self._in_split = pc.equal(shards.splits, split).to_numpy(zero_copy_only=False)
        self._columns: tuple[Columns, FlagColumn | None] | None = None

    def take(
        self, rows: Array | range, keys: RowKeys, spans: Spans | None = None, *, mask_uncovered: bool = False
    ) -> SoftTargets | SoftSequences:
        """Return rows by number, for sequences perhaps some spans of them.

        Raises AlignmentError for rows that the target does not cover; with `mask_uncovered` these are rows without an
        answer instead.
        """
        columns, valid = self._open_columns()
        numbers = np.asarray(rows, np.int64)
        covered = None
        if mask_uncovered:
            shard, local, covered = self.locate(numbers)
        else:
            shard, local = self._locate_all(numbers, keys)
        if covered is not None:
            shard, local = np.where(covered, shard, 0), np.where(covered, local, 0)
        mask = covered if valid is None else valid.take(shard, local)
        if valid is not None and covered is not None:
            mask &= covered
        if isinstance(columns, SequenceReader):
            return columns.take(shard, local, mask, keys, spans)
        stored = {name: column.take(shard, local) for name, column in columns.items()}
        if covered is not None:
            self._blank(stored, ~covered)
        return self._rows(stored, mask, keys)

    def take_range(self, begin: int, end: int, keys: RowKeys) -> SoftTargets | SoftSequences | None:
        """Return the rows from `begin` to before `end`, copied in whole runs; None if there are gaps between shards."""
        runs = self._reader.runs(begin, end) if begin < end and self._split is None else None
        if runs is None:
            return None
        columns, valid = self._open_columns()
        if isinstance(columns, SequenceReader):
            return self.take(range(begin, end), keys)
        stored = {name: column.take_runs(runs) for name, column in columns.items()}
        mask = None if valid is None else valid.take(*self._reader.locate(np.arange(begin, end))[:2])
        return self._rows(stored, mask, keys)

    def close(self) -> None:
        """Unmap all files. Reading them then raises StorageError."""
        self._reader.close()

    def valid(self, rows: Array, keys: RowKeys) -> Array:
        """Return the flags `valid` as they are stored, bool [n]."""
        shard, local = self._locate_all(rows, keys)
        return FlagColumn(self._reader, "valid").take(shard, local)

    def lengths(self, rows: Array, keys: RowKeys) -> Array:
        """Return how many tokens or positions each row has, int64 [n], 0 without an answer. For sequences only."""
        columns, valid = self._open_columns()
        assert isinstance(columns, SequenceReader)
        shard, local = self._locate_all(rows, keys)
        found = columns.lengths(shard, local)
        return found if valid is None else np.where(valid.take(shard, local), found, 0)

    def stored_columns(self, rows: Array, keys: RowKeys) -> dict[str, Array]:
        """Return all of the codec's columns as they are stored, [n, ...] each, companions too. Not for sequences."""
        shard, local = self._locate_all(rows, keys)
        columns = self._codec.columns
        return {c.name: FixedColumn(self._reader, c.name, c.dtype, c.shape).take(shard, local).numpy() for c in columns}

    def covered_rows(self, split: str | None = None) -> Array:
        """Return the numbers of the rows that the target covers (in the split), int64, ascending.

        Raises TaskError for a `split` that it does not have, or that it is not narrowed to.
        """
        chosen = self._in_split if split is None else shards_of(self._shards, split)
        if split is not None and self._split not in (None, split):
            raise TaskError(f"{self._shards.target} is narrowed to split {self._split}; open it without, or as {split}")
        first, rows = self._shards.first_row[chosen], self._shards.rows[chosen]
        pairs = zip(first.tolist(), rows.tolist(), strict=True)
        return np.concatenate([np.empty(0, np.int64), *(np.arange(first, first + rows) for first, rows in pairs)])

    def locate(self, rows: Array) -> tuple[Array, Array, Array | None]:
        """Return the shard and the row within it of each row, and which are covered (in the split), None if all."""
        shard, local, covered = self._reader.locate(rows)
        if self._split is not None:
            inside = self._in_split[shard]
            covered = inside if covered is None else covered & inside
        return shard, local, None if covered is None or covered.all() else covered

    def uncovered(self, rows: Array, keys: RowKeys) -> AlignmentError:
        """Return the error for rows that the target does not cover."""
        by_row = isinstance(keys, DeferredKeys)
        named = f"rows {name_some(rows.tolist())}" if by_row else f"samples {name_some(keys.ids.tolist())}"
        where = "" if self._split is None else f" in split {self._split}"
        return AlignmentError(
            f"{self._shards.target}{where} does not cover {counted(len(rows), 'row')}: {named}; build it for them"
        )

    def _locate_all(self, rows: Array, keys: RowKeys) -> tuple[Array, Array]:
        shard, local, covered = self.locate(rows)
        if covered is not None:
            raise self.uncovered(rows[~covered], keys.take(~covered))
        return shard, local

    def _rows(self, stored: dict[str, torch.Tensor], mask: Array | None, keys: RowKeys) -> SoftTargets:
        count = len(next(iter(stored.values())))
        answered = torch.ones(count, dtype=torch.bool) if mask is None else torch.from_numpy(mask)
        return SoftTargets(decoder=self._decoder, columns=stored, mask=answered, keys=keys)

    def _blank(self, stored: dict[str, torch.Tensor], rows: Array) -> None:
        """Overwrite rows, bool [n], with a missing answer."""
        missing = self._codec.missing(1)
        for name, column in stored.items():
            column.numpy()[rows] = missing[name].numpy()

    def _open_columns(self) -> tuple[Columns, FlagColumn | None]:
        if self._columns is None:
            flags = FlagColumn(self._reader, "valid") if self._has_gaps else None
            self._columns = open_columns(self._reader, self._codec), flags
        return self._columns


def open_columns(reader: ShardReader, codec: Codec) -> Columns:
    """Return what reads a codec's columns."""
    if codec.task.is_list:
        return SequenceReader(reader, codec)
    return {c.name: FixedColumn(reader, c.name, c.dtype, c.shape) for c in codec.columns if not c.companion}
