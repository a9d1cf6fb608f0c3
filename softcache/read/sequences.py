"""Rows of a target whose rows are sequences, whole or in spans."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from softcache.codecs import Codec
from softcache.errors import AlignmentError, counted, name_some
from softcache.read.gather import ListColumns, Runs, ShardReader, ranges
from softcache.read.row_keys import RowKeys
from softcache.read.soft_sequences import SoftSequences

Array = np.ndarray[Any, Any]
_LONGEST = 2**24


@dataclass(frozen=True, eq=False)
class Spans:
    """For each of n rows a run of positions: from `starts` on, `lengths` of them (int64 [n])."""

    starts: Array
    lengths: Array


class SequenceReader:
    """Gathers sequences from a target's shards."""

    def __init__(self, reader: ShardReader, codec: Codec) -> None:
        stored = [(c.name, c.dtype, c.shape) for c in codec.columns if not c.companion]
        self._reader, self._codec, self._has_tokens = reader, codec, codec.task.kind == "causal_lm"
        self._values = ListColumns(reader, stored)
        if self._has_tokens:
            self._positions = ListColumns(reader, [("positions", "int32", ())])
            self._tokens = ListColumns(reader, [("input_ids", "int32", ())])

    def take(self, shard: Array, local: Array, mask: Array, keys: RowKeys, spans: Spans | None) -> SoftSequences:
        """Return rows, or spans of them; `mask` (bool [n]) says which have an answer.

        Raises AlignmentError for spans that reach beyond their row's tokens or positions.
        """
        begin, stored = self._values.bounds.take(shard, local)
        token_begin, token_count = self._tokens.bounds.take(shard, local) if self._has_tokens else (begin, stored)
        if not mask.all():
            stored, token_count = np.where(mask, stored, 0), np.where(mask, token_count, 0)
        positions = np.maximum(token_count - 1, 0) if self._has_tokens else stored
        spans = spans or Spans(np.zeros_like(begin), positions)
        _check(spans, token_count, mask, keys)
        longest = int(spans.lengths.max(initial=0))
        if np.array_equal(stored, positions):
            # Every position is stored, so that a span's items are a run of the row's.
            first = np.minimum(spans.starts, stored)
            counts = np.minimum(spans.starts + spans.lengths, stored) - first
            row, place = np.repeat(np.arange(len(shard)), counts), ranges(np.zeros_like(counts), counts)
            columns = self._values.take(Runs(shard, begin + first, counts))
            there = np.arange(longest) < counts[:, None]
        else:
            columns, row, place = self._some(shard, local, begin, stored, token_count, spans, mask)
            there = np.zeros((len(shard), longest), np.bool_)
            there[row, place] = True
        return SoftSequences(
            decoder=self._codec,
            columns=columns,
            mask=torch.from_numpy(there),
            keys=keys,
            row=torch.from_numpy(row),
            place=torch.from_numpy(place),
            lengths=torch.from_numpy(spans.lengths),
            packed_tokens=self._take_tokens(shard, token_begin, token_count, spans) if self._has_tokens else None,
        )

    def _some(
        self, shard: Array, local: Array, begin: Array, stored: Array, tokens: Array, spans: Spans, mask: Array
    ) -> tuple[dict[str, torch.Tensor], Array, Array]:
        """Return the stored positions of spans where some are left out: columns, rows and places in the spans."""
        begins, counts = self._positions.bounds.take(shard, local)
        counts = np.where(mask, counts, 0)
        if not (np.array_equal(begins, begin) and np.array_equal(counts, stored)):
            raise self._reader.bad("positions", "has other lists than its rows' values")
        row = np.repeat(np.arange(len(shard)), stored)
        positions = self._positions.take(Runs(shard, begin, stored))["positions"].numpy()
        descends = (np.diff(positions) <= 0) & (np.diff(row) == 0)
        if descends.any() or (positions < 0).any() or (positions >= tokens[row] - 1).any():
            raise self._reader.bad("positions", "is not ascending, or beyond its rows' tokens")
        place = positions.astype(np.int64) - spans.starts[row]
        inside = (place >= 0) & (place < spans.lengths[row])
        items = ranges(begin, stored)[inside]
        row, place = row[inside], place[inside]
        return self._values.take(Runs(shard[row], items, np.ones_like(items))), row, place

    def _take_tokens(self, shard: Array, begin: Array, count: Array, spans: Spans) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the tokens of each span and the one after it, one after the other, and how many each has."""
        first = np.minimum(spans.starts, count)
        counts = np.minimum(spans.starts + spans.lengths + 1, count) - first
        return self._tokens.take(Runs(shard, begin + first, counts))["input_ids"], torch.from_numpy(counts)


def read_spans(starts: Any, lengths: Any, rows: int) -> Spans:
    """Return spans, `starts` and `lengths` integers [rows] or one number. Raises AlignmentError for anything else."""
    return Spans(_integers("starts", starts, rows), _integers("lengths", lengths, rows))


def _integers(name: str, given: Any, rows: int) -> Array:
    try:
        numbers = np.asarray(given)
        fits = numbers.dtype.kind in "iu" or not numbers.size
        if (
            fits
            and numbers.shape in ((), (rows,))
            and 0 <= numbers.min(initial=0) <= numbers.max(initial=0) <= _LONGEST
        ):
            return numbers.astype(np.int64) if numbers.ndim else np.full(rows, int(numbers))
    except ValueError:
        pass  # lists of several lengths
    raise AlignmentError(f"{name} must be integers from 0 to {_LONGEST:,}, one or [{rows}]")


def _check(spans: Spans, counts: Array, mask: Array, keys: RowKeys) -> None:
    beyond = np.flatnonzero(mask & (spans.starts + spans.lengths > counts))
    if len(beyond):
        first = beyond[0]
        raise AlignmentError(
            f"{counted(len(beyond), 'span')} of samples {name_some(keys.ids[beyond].tolist())} beyond their end: "
            f"{spans.lengths[first]:,} from {spans.starts[first]:,} of {counts[first]:,}"
        )
