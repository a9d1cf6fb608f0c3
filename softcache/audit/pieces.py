"""Fragments of another size for the rows of a cache, which keep their order, their numbers and their bits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from softcache.errors import IntegrityError, StorageError
from softcache.read.cache import Cache
from softcache.store import arrow
from softcache.store.layout import ROWS
from softcache.store.live_shards import LiveShard, TargetShards
from softcache.store.plan import Fragment, Plan
from softcache.store.references import read_reference
from softcache.store.shards import StoredFile
from softcache.store.state import State

_END = object()  # before the first sample of a run, and after the last


@dataclass(frozen=True, eq=False)
class Piece:
    """A new fragment: its rows are those from `first_row` on in the source, and `targets` cover them all."""

    fragment: Fragment
    first_row: int
    targets: frozenset[str]

    @property
    def rows(self) -> range:
        """The numbers of its rows, which are the same in the source."""
        return range(self.first_row, self.first_row + self.fragment.rows)


@dataclass(frozen=True, eq=False)
class _Run:
    """Fragments of the source that lie one after the other, of one split, the same views and the same targets."""

    fragments: Sequence[Fragment]
    first_row: int
    targets: frozenset[str]


def cut_anew(state: State, plan: Plan, fragment_rows: int) -> list[Piece]:
    """Return fragments of about `fragment_rows` rows, at least a sample each, in the order of the rows.

    Further views of some samples lie in fragments of their own, which a build matches with those of the first views by
    their samples. So both are cut at the same samples.
    """
    runs = list(_runs(state, plan))
    ids = [pa.concat_arrays([f.sample_ids for f in run.fragments]) for run in runs]
    begins = _borders([each.to_pylist() for each in ids]) if state.commit.views > 1 else set()
    samples = max(fragment_rows // max(f.views for f in plan.fragments.values()), 1)
    found: list[Piece] = []
    for run, own in zip(runs, ids, strict=True):
        contents = np.concatenate([f.contents for f in run.fragments])
        first, row = run.fragments[0], run.first_row
        for begin, end in _cuts(own.to_pylist(), begins, samples):
            fragment = Fragment.of(
                len(found),
                first.split,
                pa.concat_arrays([own[begin:end]]),
                contents[begin:end],
                first_view=first.first_view,
                views=first.views,
            )
            found.append(Piece(fragment, row, run.targets))
            row += fragment.rows
    return found


def _runs(state: State, plan: Plan) -> Iterator[_Run]:
    shards = state.rows
    covering: dict[int, set[str]] = {}
    for name in state.commit.targets:
        for number in state.shards(name).fragments.tolist():
            covering.setdefault(number, set()).add(name)
    order = list(zip(shards.fragments.tolist(), shards.first_row.tolist(), strict=True))

    def alike(place: tuple[int, int]) -> tuple[Any, ...]:
        f = plan.fragments[place[0]]
        return f.split, f.first_view, f.views, frozenset({ROWS, *covering.get(f.number, ())})

    for (*_, targets), places in groupby(order, alike):
        together = list(places)
        yield _Run([plan.fragments[number] for number, _ in together], together[0][1], targets)


def _borders(runs: Sequence[Sequence[Any]]) -> set[Any]:
    """Return the ids at which every run must be cut: between two of them all runs that hold them hold the same ids."""
    before: dict[Any, set[Any]] = {}
    after: dict[Any, set[Any]] = {}
    for ids in runs:
        for one, following in pairwise([_END, *ids, _END]):
            after.setdefault(one, set()).add(following)
            before.setdefault(following, set()).add(one)
    found = {one for one, preceding in before.items() if len(preceding) > 1}
    for following in after.values():
        found |= following if len(following) > 1 else set()
    return found - {_END}


def _cuts(ids: Sequence[Any], begins: set[Any], samples: int) -> Iterator[tuple[int, int]]:
    """Yield ranges of at most so many samples, each of which begins anew at the ids `begins`."""
    begin = 0
    for at in range(1, len(ids) + 1):
        if at == len(ids) or at - begin == samples or ids[at] in begins:
            yield begin, at
            begin = at


class StoredRows:
    """The rows of a cache as its Arrow shards store them. The last shard that was read is kept."""

    def __init__(self, state: State) -> None:
        self.state = state
        self._shards: dict[str, TargetShards] = {}
        self._last: tuple[tuple[str, int], pa.RecordBatch] | None = None

    def take(self, name: str, piece: Piece) -> pa.RecordBatch:
        """Return the rows of a piece; of `rows`, one for each sample. Raises StorageError if they are too many."""
        if name not in self._shards:
            self._shards[name] = self.state.shards(name)
        shards, each = self._shards[name], piece.fragment.views if name == ROWS else 1
        first = int(shards.first_row.searchsorted(piece.rows.start, side="right")) - 1
        parts = []
        for i in range(first, int(shards.first_row.searchsorted(piece.rows.stop))):
            begin = max(piece.rows.start - int(shards.first_row[i]), 0) // each
            end = min(piece.rows.stop - int(shards.first_row[i]), int(shards.rows[i])) // each
            parts.append(self._load(shards, i).slice(begin, end - begin))
        batches = pa.Table.from_batches(parts).combine_chunks().to_batches()
        if len(batches) > 1:
            raise StorageError(
                f"{self.state.files.url}: {piece.fragment.rows:,} rows of {name} have more text than fits into one "
                "shard; give fewer rows to a fragment"
            )
        return batches[0]

    def _load(self, shards: TargetShards, i: int) -> pa.RecordBatch:
        if self._last is None or self._last[0] != (shards.target, i):
            reference = StoredFile(shards.path(i, 0), int(shards.file_bytes[i, 0]), shards.digest(i, 0))
            where = f"{self.state.files.url}/{reference.path}"
            self._last = (shards.target, i), arrow.load(read_reference(self.state.files, reference), where)
        return self._last[1]


def compare(
    source: Cache, rows: StoredRows, written: Cache, live: Mapping[str, Sequence[LiveShard]], pieces: Sequence[Piece]
) -> None:
    """Compare every row that has been written with the source, bit for bit, and look every key up.

    Raises IntegrityError.
    """
    for name, shards in live.items():
        for one in shards:
            if not _is_same(source, rows, written, name, pieces[one.fragment], one.shard.files[0]):
                path = f"{written.url}/{one.shard.files[0].path}"
                raise IntegrityError(f"{path}: not the rows of the source; delete the new folder and repack again")
    for piece in pieces:
        ids, views = piece.fragment.row_ids(), piece.fragment.row_views()
        if not np.array_equal(written.find(ids, views), np.asarray(piece.rows)):
            raise IntegrityError(f"{written.url}: keys do not lead to their rows; delete the folder and repack again")


def _is_same(source: Cache, rows: StoredRows, written: Cache, name: str, piece: Piece, file: StoredFile) -> bool:
    if file.path.endswith(".arrow"):
        old, new = rows.take(name, piece), arrow.load(read_reference(written.state.files, file), file.path)
        if not old.schema.equals(new.schema, check_metadata=True):
            return False
        return all(map(same_bits, old.columns, new.columns))
    numbers, before, after = np.asarray(piece.rows), source[name], written[name]
    columns = after.read_columns(numbers)
    return np.array_equal(before.read_valid(numbers), after.read_valid(numbers)) and all(
        column.tobytes() == columns[key].tobytes() for key, column in before.read_columns(numbers).items()
    )


def same_bits(a: pa.Array, b: pa.Array) -> bool:
    """Whether two columns without nulls hold the same bits. NaN equals itself, unlike in `Array.equals`."""
    if a.type != b.type or len(a) != len(b):
        return False
    kind = a.type
    if isinstance(kind, pa.BaseExtensionType):
        return same_bits(a.storage, b.storage)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return a.value_lengths().equals(b.value_lengths()) and same_bits(a.flatten(), b.flatten())
    if pa.types.is_fixed_size_list(kind):
        return same_bits(a.flatten(), b.flatten())
    if pa.types.is_struct(kind):
        return all(map(same_bits, a.flatten(), b.flatten()))
    if pa.types.is_floating(kind):
        same = {16: pa.uint16(), 32: pa.uint32(), 64: pa.uint64()}[kind.bit_width]
        return bool(a.view(same).equals(b.view(same)))
    return bool(a.equals(b))
