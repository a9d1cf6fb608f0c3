"""The transfer set: a source, with its id column, kept columns and content columns."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import KW_ONLY, dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from softcache.arrays import Array
from softcache.errors import AlignmentError, SoftcacheError, StorageError, TransferSetError, name_some
from softcache.store.keys import duplicates, id_array
from softcache.transfer.content import hash_rows
from softcache.transfer.sources import Sample, Source

CONTENT_HASH, BY_POSITION = "content-hash", "by-position"
_CHUNK = 4096


@dataclass(frozen=True, eq=False)
class Scan:
    """The id of every sample (int64 or string [n]), its content hash and its kept hash (both uint8 [n, 32])."""

    sample_ids: pa.Array
    contents: Array
    kept: Array

    def samples(self, positions: Array) -> tuple[pa.Array, Array]:
        """Return the ids and content hashes of samples at ascending positions; contiguous ones are not copied."""
        first, count = int(positions[0]), len(positions)
        if int(positions[-1]) - first == count - 1:
            return self.sample_ids.slice(first, count), self.contents[first : first + count]
        return self.sample_ids.take(pa.array(positions)), self.contents[positions]


@dataclass(frozen=True, eq=False)
class TransferSet:
    """The ordered samples that teachers label. Raises TransferSetError if a column is missing or there are no samples.

    Attributes:
        source: where the samples come from.
        id: the id column; `content-hash`; or `by-position`, for positions in the source.
        keep: columns that are stored beside the ids.
        content: columns that the content hash covers: those that teachers read.
        split: the split of the cache that the samples go to.
        limit: the number of samples to take, from the first; None for all.
    """

    source: Source
    id: str
    keep: tuple[str, ...]
    content: tuple[str, ...]
    _: KW_ONLY
    split: str = "train"
    limit: int | None = None

    def __post_init__(self) -> None:
        wanted = [*self.keep, *self.content, *self._id_columns]
        absent = sorted(set(wanted) - set(self.source.columns))
        if absent:
            raise TransferSetError(f"no column {', '.join(absent)}; there are {', '.join(self.source.columns)}")
        if not self.content:
            raise TransferSetError(
                "no content columns: teachers must read at least one column besides the id and the kept ones"
            )
        if len(self) == 0:
            raise TransferSetError("the transfer set has no samples")

    @property
    def id_column(self) -> str | None:
        """The column of the sample ids; None if they are no column."""
        return None if self.id in (CONTENT_HASH, BY_POSITION) else self.id

    @property
    def _id_columns(self) -> list[str]:
        return [] if self.id_column is None else [self.id_column]

    def __len__(self) -> int:
        return len(self.source) if self.limit is None else min(self.limit, len(self.source))

    def scan(self, progress: Callable[[int], object] = lambda rows: None) -> Scan:
        """Read every sample once, undecoded. `progress` is called with the number of samples read since its last call.

        Raises AlignmentError for missing or duplicate ids, TransferSetError for samples that cannot be read,
        StorageError if the folder for temporary files is full.
        """
        ids: list[pa.Array] = []
        contents, kept = _on_disk(len(self)), _on_disk(len(self))
        for begin in range(0, len(self), _CHUNK):
            positions = np.arange(begin, min(begin + _CHUNK, len(self)))
            table = self._read(positions)
            contents[positions] = hash_rows(table.select(list(self.content)), len(positions))
            kept[positions] = hash_rows(table.select(list(self.keep)), len(positions))
            if self.id == CONTENT_HASH:
                ids.append(hash_ids(contents[positions]))
            elif self.id == BY_POSITION:
                ids.append(pa.array(self.source.positions(positions)))
            else:
                ids.append(self._ids(table[self.id], begin))
            progress(len(positions))
        sample_ids = id_array(pa.concat_arrays(ids))
        self._check_unique(sample_ids)
        return Scan(sample_ids, contents, kept)

    def table(self, positions: Array, columns: Sequence[str]) -> pa.Table:
        """Return columns of the samples at `positions` as they are stored, undecoded."""
        # A dataset without columns would have no rows either.
        return self.source.read(positions, columns) if columns else pa.table({})

    def samples(self, positions: Array, columns: Sequence[str], scan: Scan | None = None) -> list[Sample]:
        """Return decoded samples, one dict each. Errors of the decoder pass through unchanged.

        Raises AlignmentError, which names the sample, if one is not what it was when it was scanned (if `scan` is
        given): the stored hash would then be that of another sample than the teacher has seen.
        """
        if scan is None:
            return self.source.decode(self.source.read(positions, columns))
        table = self.source.read(positions, list(dict.fromkeys([*self.content, *columns])))
        self._compare(table.select(list(self.content)), positions, scan.contents, scan)
        return self.source.decode(table.select(list(columns)))

    def kept(self, positions: Array, scan: Scan) -> pa.Table:
        """Return the kept columns of samples. Raises AlignmentError if one is not what it was when it was scanned."""
        table = self.table(positions, self.keep)
        if self.keep:
            self._compare(table, positions, scan.kept, scan)
        return table

    def _compare(self, table: pa.Table, positions: Array, hashes: Array, scan: Scan) -> None:
        differs = (hash_rows(table, len(positions)) != hashes[positions]).any(1)
        if differs.any():
            changed = scan.sample_ids.take(pa.array(positions[differs]))
            raise AlignmentError(
                f"samples {name_some(changed.to_pylist())} have changed since this build read them first (columns "
                f"{', '.join(table.column_names)}); see to it that nothing writes to the transfer set, and run the "
                "same command again"
            )

    def _read(self, positions: Array) -> pa.Table:
        columns = list(dict.fromkeys([*self.content, *self.keep, *self._id_columns]))
        try:
            return self.source.read(positions, columns)
        except SoftcacheError:
            raise
        except Exception as e:
            raise TransferSetError(f"samples {positions[0]} to {positions[-1]} cannot be read: {e}") from e

    def _ids(self, column: pa.ChunkedArray, begin: int) -> pa.Array:
        if column.null_count:
            rows = np.flatnonzero(column.is_null().to_numpy()) + begin
            raise AlignmentError(f"id column {self.id!r} has no value in rows {name_some(rows.tolist())}")
        try:
            return id_array(column)
        except AlignmentError as e:
            raise AlignmentError(f"id column {self.id!r}, rows from {begin} onwards: {e}") from e

    def _check_unique(self, sample_ids: pa.Array) -> None:
        repeated = duplicates(sample_ids)
        if not repeated:
            return
        if self.id == CONTENT_HASH:
            first = np.flatnonzero(pc.equal(sample_ids, pa.scalar(repeated[0])).to_numpy(zero_copy_only=False))
            rows = f"rows {name_some(first.tolist())} have equal content"
            raise AlignmentError(
                f"{len(repeated):,} contents occur more than once ({rows}); remove the duplicates, or name an id column"
            )
        raise AlignmentError(f"id column {self.id!r}: duplicate ids {name_some(repeated)}")


def hash_ids(contents: Array) -> pa.Array:
    """Return the sample ids that content hashes, uint8 [n, 32], make: 64 hexadecimal digits each."""
    return pa.array([content.tobytes().hex() for content in contents], pa.string())


def _on_disk(rows: int) -> Array:
    """Return an array for hashes, uint8 [rows, 32], in a nameless temporary file: memory must not grow with the rows.

    The file is filled before it is mapped: if a mapped page met a full disk only when it was used, that would kill the
    process. Raises StorageError if there is no room.
    """
    try:
        with tempfile.TemporaryFile() as file:
            for begin in range(0, rows, _CHUNK):
                file.write(bytes(32 * min(_CHUNK, rows - begin)))
            file.flush()
            return np.memmap(file, np.uint8, "r+", shape=(rows, 32))
    except OSError as e:
        raise StorageError(
            f"{tempfile.gettempdir()}: {e.strerror or e}; hashes of {rows:,} samples need {32 * rows:,} bytes there, "
            "twice over; make room, or set TMPDIR to another folder"
        ) from e


def kept_digest(kept: Array) -> str:
    """Return the hash of a fragment's kept hashes, uint8 [samples, 32]."""
    return hashlib.sha256(kept.tobytes()).hexdigest()
