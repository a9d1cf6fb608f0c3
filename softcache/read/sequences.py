"""Rows of a target whose rows are sequences, whole or in spans."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from softcache.codecs import Codec
from softcache.errors import AlignmentError, counted, name_some
from softcache.read.gather import ListColumns, RunCopier, Runs, ShardReader, has_long_runs, ranges
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
        lists = [self._values, self._tokens] if self._has_tokens else [self._values]
        self._together = RunCopier([column.window for each in lists for column in each.columns.values()])

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
        token_runs = _token_runs(shard, token_begin, token_count, spans) if self._has_tokens else None
        longest = int(spans.lengths.max(initial=0))
        if np.array_equal(stored, positions):
            # Every position is stored, so that a span's items are a run of the row's.
            first = np.minimum(spans.starts, stored)
            counts = np.minimum(spans.starts + spans.lengths, stored) - first
            columns, tokens = self._copy(Runs(shard, begin + first, counts), token_runs)
            there = np.arange(longest) < counts[:, None]
        else:
            columns, row, place = self._some(shard, local, begin, stored, token_count, spans, mask)
            tokens = None if token_runs is None else self._tokens.take(token_runs)["input_ids"]
            there = np.zeros((len(shard), longest), np.bool_)
            there[row, place] = True
        return SoftSequences(
            decoder=self._codec,
            columns=columns,
            mask=torch.from_numpy(there),
            keys=keys,
            lengths=torch.from_numpy(spans.lengths),
            packed_tokens=None if tokens is None or token_runs is None else (tokens, torch.from_numpy(token_runs.rows)),
        )

    def _copy(self, runs: Runs, token_runs: Runs | None) -> tuple[dict[str, torch.Tensor], torch.Tensor | None]:
        """Return runs of positions, by column, and those of tokens."""
        if token_runs is None:
            return self._values.take(runs), None
        if not has_long_runs(runs.rows):
            return self._values.take(runs), self._tokens.take(token_runs)["input_ids"]
        values = self._values.columns
        first, rows = np.empty((2, len(values) + 1, len(runs.rows)), np.int64)
        first[:-1], first[-1], rows[:-1], rows[-1] = runs.first, token_runs.first, runs.rows, token_runs.rows
        *numbers, tokens = self._together.take(runs.shard, first, rows)
        copied = zip(values.items(), numbers, strict=True)
        return {name: column.shaped(found) for (name, column), found in copied}, torch.from_numpy(tokens)

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


def _token_runs(shard: Array, begin: Array, count: Array, spans: Spans) -> Runs:
    """Return the tokens of each span and the one after it, as runs of a row's `count` tokens from `begin` on."""
    first = np.minimum(spans.starts, count)
    return Runs(shard, begin + first, np.minimum(spans.starts + spans.lengths + 1, count) - first)


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
