"""Reading sequences, whole or in spans."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from softcache.arrays import Array
from softcache.codecs import Codec
from softcache.errors import AlignmentError, counted, name_some
from softcache.read.columns import Bounds, ListColumns, RunCopier
from softcache.read.gather import has_long_runs, ranges
from softcache.read.shard_reader import Runs, ShardReader
from softcache.soft.keys import RowKeys
from softcache.soft.sequences import SoftSequences

_LONGEST = 2**24
_AFTER = np.array([[0], [1]])


@dataclass(frozen=True, eq=False)
class Spans:
    """A run of positions for each of n rows: from `starts` to before `ends`, `lengths` in number (int64 [n])."""

    starts: Array
    lengths: Array
    ends: Array


class SequenceReader:
    """Gathers sequences from a target's shards."""

    def __init__(self, reader: ShardReader, codec: Codec) -> None:
        stored = [(c.name, c.dtype, c.shape) for c in codec.columns if not c.companion]
        self._reader, self._codec, self._has_tokens = reader, codec, codec.task.traits.has_tokens
        self._values = ListColumns(reader, stored)
        if self._has_tokens:
            self._positions = ListColumns(reader, [("positions", "int32", ())])
            self._tokens = ListColumns(reader, [("input_ids", "int32", ())])
            self._position_bounds = Bounds(reader, self._positions.items)
        # Everything about the two lists comes in this order: first the values, then the tokens.
        lists = [self._values, self._tokens] if self._has_tokens else [self._values]
        self._bounds = Bounds(reader, {name: items for each in lists for name, items in each.items.items()})
        self._names = [name for each in lists for name in each.columns]
        self._together = RunCopier([column for each in lists for column in each.columns.values()])
        self._list_of = np.repeat(np.arange(len(lists)), [len(each.columns) for each in lists])

    def take(self, shard: Array, local: Array, mask: Array | None, keys: RowKeys, spans: Spans | None) -> SoftSequences:
        """Return rows, or spans of them. `mask` (bool [n]) says which rows have an answer; None means all.

        Raises AlignmentError for spans that end after their row's tokens or positions.
        """
        begins, counts = self._bounds.take(shard, local)
        counts = counts if mask is None else np.where(mask, counts, 0)
        positions = np.maximum(counts[-1] - 1, 0) if self._has_tokens else counts[0]
        if spans is None:
            spans = Spans(np.zeros_like(positions), positions, positions)
        else:
            _check(spans, counts[-1], mask, keys)
        # A span has one more token than positions: the one that follows it.
        first = np.minimum(spans.starts, counts)
        rows = np.minimum(spans.ends + _AFTER[: len(counts)], counts) - first
        first += begins
        longest = int(spans.lengths.max(initial=0))
        if np.array_equal(counts[0], positions):
            # Every position is stored, so a span's items are one run of the row's items.
            columns, tokens = self._copy(shard, first, rows)
            there = np.arange(longest) < rows[0][:, None]
        else:
            columns, row, place = self._some(shard, local, begins[0], counts, spans, mask)
            tokens = self._tokens.take(Runs(shard, first[1], rows[1]))["input_ids"]
            there = np.zeros((len(shard), longest), np.bool_)
            there[row, place] = True
        return SoftSequences(
            decoder=self._codec.decoder,
            columns=columns,
            mask=torch.from_numpy(there),
            keys=keys,
            lengths=torch.from_numpy(spans.lengths),
            packed_tokens=None if tokens is None else (tokens, torch.from_numpy(rows[1])),
        )

    def lengths(self, shard: Array, local: Array) -> Array:
        """Return how many tokens each row has, or positions if the target has no tokens, int64 [n]. Reads no values."""
        counts: Array = self._bounds.take(shard, local)[1][-1]
        return counts

    def _copy(self, shard: Array, first: Array, rows: Array) -> tuple[dict[str, torch.Tensor], torch.Tensor | None]:
        """Return runs of items: the values by column, and the tokens."""
        if has_long_runs(rows[0]):
            copied = self._together.take(shard, first[self._list_of], rows[self._list_of])
            columns = dict(zip(self._names, copied, strict=True))
            tokens = columns.pop("input_ids") if self._has_tokens else None
            return columns, tokens
        tokens = self._tokens.take(Runs(shard, first[1], rows[1]))["input_ids"] if self._has_tokens else None
        return self._values.take(Runs(shard, first[0], rows[0])), tokens

    def _some(
        self, shard: Array, local: Array, begin: Array, counts: Array, spans: Spans, mask: Array | None
    ) -> tuple[dict[str, torch.Tensor], Array, Array]:
        """Return the stored positions of spans if some positions are not stored: columns, rows, places in the spans."""
        stored, tokens = counts
        (begins,), (found,) = self._position_bounds.take(shard, local)
        found = found if mask is None else np.where(mask, found, 0)
        if not (np.array_equal(begins, begin) and np.array_equal(found, stored)):
            raise self._reader.bad("positions", "has other lists than its rows' values")
        row = np.repeat(np.arange(len(shard)), stored)
        positions = self._positions.take(Runs(shard, begin, stored))["positions"].numpy()
        descends = (np.diff(positions) <= 0) & (np.diff(row) == 0)
        if descends.any() or (positions < 0).any() or (positions >= tokens[row] - 1).any():
            raise self._reader.bad("positions", "is not ascending, or beyond the tokens of its rows")
        place = positions.astype(np.int64) - spans.starts[row]
        inside = (place >= 0) & (place < spans.lengths[row])
        items = ranges(begin, stored)[inside]
        row, place = row[inside], place[inside]
        return self._values.take(Runs(shard[row], items, np.ones_like(items))), row, place


def read_spans(starts: Any, lengths: Any, rows: int) -> Spans:
    """Return spans, `starts` and `lengths` integers [rows] or one number. Raises AlignmentError for anything else."""
    first, counts = _integers("starts", starts, rows), _integers("lengths", lengths, rows)
    return Spans(first, counts, first + counts)


def _integers(name: str, given: Any, rows: int) -> Array:
    if type(given) is int and 0 <= given <= _LONGEST:
        return np.full(rows, given)
    try:
        numbers = np.asarray(given)
        if (numbers.dtype.kind in "iu" or not numbers.size) and numbers.shape in ((), (rows,)):
            found: Array = numbers.astype(np.int64)
            # Seen without a sign, negative numbers are the largest.
            if found.view(np.uint64).max(initial=0) <= _LONGEST:
                return found if found.ndim else np.full(rows, found)
    except ValueError:
        pass  # lists of several lengths
    raise AlignmentError(f"{name} must be integers from 0 to {_LONGEST:,}, one or [{rows}]")


def _check(spans: Spans, counts: Array, mask: Array | None, keys: RowKeys) -> None:
    beyond = spans.ends > counts
    beyond = beyond if mask is None else mask & beyond
    if beyond.any():
        first = beyond.argmax()
        raise AlignmentError(
            f"{counted(int(beyond.sum()), 'span')} of samples {name_some(keys.ids[beyond].tolist())} beyond their end: "
            f"{spans.lengths[first]:,} from {spans.starts[first]:,} of {counts[first]:,}"
        )
