"""Subsets of a source: samples for which an expression is true, or equally many samples of every class."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from softcache.arrays import Array
from softcache.errors import MissingExtra, TransferSetError, counted, name_some
from softcache.transfer.sources import Sample, Source


class Subset(Source):
    """Some samples of a source: those at `positions`, int64 [n], ascending."""

    def __init__(self, source: Source, positions: Array) -> None:
        self._source, self._positions, self.columns = source, positions, source.columns

    def __len__(self) -> int:
        return len(self._positions)

    def read(self, positions: Array, columns: Sequence[str]) -> pa.Table:
        return self._source.read(self._positions[positions], columns)

    def positions(self, positions: Array) -> Array:
        return self._source.positions(self._positions[positions])

    def labels(self, column: str) -> Sequence[str] | None:
        return self._source.labels(column)

    def decode(self, table: pa.Table) -> list[Sample]:
        return self._source.decode(table)


def where(source: Source, expression: str) -> Source:
    """Return the samples for which an expression over the columns is true, as `pandas.DataFrame.query` reads it.

    Raises TransferSetError if the expression is not valid, is not true or false for each sample, or is true for none;
    MissingExtra without pandas.
    """
    try:
        import pandas
    except ImportError as e:
        raise MissingExtra("transfer_set.where needs pandas: pip install 'softcache[hf]'") from e
    named = [c for c in source.columns if re.search(rf"(?<!\w){re.escape(c)}(?!\w)", expression)]
    if not named:
        raise TransferSetError(f"where: {expression!r} names no column; the columns are {', '.join(source.columns)}")
    try:
        frame: pandas.DataFrame = source.read(np.arange(len(source)), named).to_pandas()
        holds = frame.eval(expression, engine="python")
    except Exception as e:
        raise TransferSetError(f"where: {expression!r}: {type(e).__name__}: {e}") from e
    if not isinstance(holds, pandas.Series) or holds.dtype != np.bool_ or len(holds) != len(source):
        raise TransferSetError(f"where: {expression!r} is not true or false for each sample")
    positions = np.flatnonzero(holds.to_numpy())
    if not len(positions):
        raise TransferSetError(f"where: {expression!r} holds for none of {counted(len(source), 'sample')}")
    return Subset(source, positions)


def balanced(source: Source, by: str, each: int | None) -> Source:
    """Return the first `each` samples of every value of column `by`; by default as many as the rarest value has.

    Raises TransferSetError if a value has fewer samples, or a sample has no value.
    """
    if by not in source.columns:
        raise TransferSetError(f"balance: no column {by}; the columns are {', '.join(source.columns)}")
    try:
        column = source.read(np.arange(len(source)), [by])[by].combine_chunks()
        kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
        kind = pa.string() if pa.types.is_string_view(kind) else kind
        coded = column.cast(kind).dictionary_encode()
    except pa.ArrowException as e:
        raise TransferSetError(f"balance: the values of column {by} cannot be counted: {e}") from e
    if coded.null_count:
        raise TransferSetError(f"balance: {counted(coded.null_count, 'sample')} without {by}")
    codes = coded.indices.to_numpy()
    counts = np.bincount(codes)
    if each is not None and (counts < each).any():
        rare = [coded.dictionary[i].as_py() for i in np.flatnonzero(counts < each).tolist()]
        raise TransferSetError(f"balance: fewer than {each:,} samples of {by} {name_some(rare)}")
    order = np.argsort(codes, kind="stable")
    rank = np.arange(len(codes)) - np.repeat(np.cumsum(counts) - counts, counts)
    chosen = np.sort(order[rank < (counts.min() if each is None else each)])
    return Subset(source, chosen)
