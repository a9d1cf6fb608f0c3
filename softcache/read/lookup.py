"""From keys to row numbers and back: the index, proved by the stored keys."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from softcache.errors import AlignmentError, counted, name_some
from softcache.read.gather import FixedColumn, ShardReader, TextColumn
from softcache.store.commits import Commit
from softcache.store.files import Files
from softcache.store.index import Segment, candidates
from softcache.store.keys import hash_keys, id_array
from softcache.store.manifest import TargetShards
from softcache.store.state import read_reference

Array = np.ndarray[Any, Any]


class Keys:
    """The keys of a cache's rows: (sample_id, view) and the content hash of each."""

    def __init__(self, files: Files, commit: Commit, rows: TargetShards, *, check: bool = True) -> None:
        self._files, self._commit = files, commit
        self._reader = ShardReader(files, rows, check=check)
        self._is_text = commit.id_type == "string"
        self._ids: FixedColumn | TextColumn = (
            TextColumn(self._reader, "sample_id")
            if self._is_text
            else FixedColumn(self._reader, "sample_id", "int64", ())
        )
        self._views = FixedColumn(self._reader, "view", "int32", ())
        self._segments: list[Segment] | None = None

    def find(self, ids: Any, views: Any = None) -> tuple[pa.Array, Array, Array]:
        """Return sample ids (Arrow), views (int32) and row numbers (int64), [n] each.

        Raises AlignmentError for keys that are not in the cache, naming some and counting all.
        """
        wanted = self._wanted(ids)
        numbers = self._wanted_views(views, len(wanted))
        rows = np.full(len(wanted), -1, np.int64)
        for positions, found in candidates(self._open_segments(), hash_keys(wanted, numbers)):
            inside = (found >= 0) & (found < self._commit.rows)
            positions, found = positions[inside], found[inside]
            same = self._equal(wanted, numbers, positions, found)
            rows[positions[same]] = found[same]
            if (rows >= 0).all():
                break
        missing = np.flatnonzero(rows < 0)
        if len(missing):
            self._check_segments()
            raise self._missing(wanted, numbers, missing)
        return wanted, numbers, rows

    def ids(self, rows: Array) -> Array:
        """Return sample ids by row number: numpy int64 or objects (str) [n]."""
        return to_numpy(self.arrow_ids(rows))

    def arrow_ids(self, rows: Array) -> pa.Array:
        """Return sample ids by row number, as int64 or string Arrow array [n]."""
        shard, local, _ = self._reader.locate(rows)
        if isinstance(self._ids, TextColumn):
            return self._ids.take_strings(shard, local)
        return pa.array(self._ids.take(shard, local).numpy())

    def views(self, rows: Array) -> Array:
        """Return views by row number, int32 [n]."""
        if self._commit.views == 1:
            return np.zeros(len(rows), np.int32)
        shard, local, _ = self._reader.locate(rows)
        return self._views.take(shard, local).numpy()

    def in_split(self, rows: Array, split: str) -> Array:
        """Whether each row belongs to a split, bool [n]."""
        splits: Array = pc.equal(self._reader.shards.splits, split).to_numpy(zero_copy_only=False)
        shard, _, _ = self._reader.locate(rows)
        return splits[shard]

    def at(self, rows: Array) -> tuple[Array, Array]:
        """Return sample ids and views by row number, [n] each."""
        return self.ids(rows), self.views(rows)

    def check_contents(self, ids: pa.Array, rows: Array, hashes: Any) -> None:
        """Compare content hashes (uint8 [n, 32], or n times 32 bytes or 64 hexadecimal digits) with the stored ones.

        Raises AlignmentError naming samples that have changed.
        """
        given = content_array(hashes, len(rows))
        shard, local, _ = self._reader.locate(rows)
        data, ends = TextColumn(self._reader, "content").take(shard, local)
        if (np.diff(ends) != 32).any():
            raise self._reader.bad("content", "is not 32 bytes a row")
        changed = np.flatnonzero((data.reshape(-1, 32) != given).any(1))
        if len(changed):
            names = name_some(ids.take(pa.array(changed)).to_pylist())
            raise AlignmentError(
                f"not what the teachers saw (another content hash): {counted(len(changed), 'sample')}, {names}"
            )

    def _wanted(self, ids: Any) -> pa.Array:
        wanted = id_array(ids)
        expected = pa.string() if self._is_text else pa.int64()
        if wanted.type != expected and len(wanted):
            raise AlignmentError(f"sample ids are {wanted.type}, those of the cache are {expected}")
        return wanted if wanted.type == expected else wanted.cast(expected)

    def _wanted_views(self, views: Any, count: int) -> Array:
        if views is None:
            if self._commit.views != 1:
                raise AlignmentError(f"the cache has up to {self._commit.views} views of a sample; say which (views=)")
            return np.zeros(count, np.int32)
        numbers = np.asarray(views)
        if numbers.shape not in ((), (count,)):
            raise AlignmentError(f"views has the shape {list(numbers.shape)}; expected a number or [{count}]")
        numbers = np.broadcast_to(numbers, (count,))
        if numbers.dtype.kind not in "iu" or (numbers < 0).any() or (numbers > 2**31 - 1).any():
            raise AlignmentError("views must be integers from 0")
        return numbers.astype(np.int32)

    def _equal(self, wanted: pa.Array, views: Array, positions: Array, rows: Array) -> Array:
        """Whether the rows' stored keys are those wanted."""
        shard, local, _ = self._reader.locate(rows)
        same: Array
        if isinstance(self._ids, TextColumn):
            stored = self._ids.take_strings(shard, local)
            same = pc.equal(stored, wanted.take(pa.array(positions))).to_numpy(zero_copy_only=False, writable=True)
        else:
            same = self._ids.take(shard, local).numpy() == wanted.to_numpy()[positions]
        same &= self.views(rows) == views[positions]
        return same

    def _open_segments(self) -> list[Segment]:
        if self._segments is None:
            references = self._commit.index
            self._segments = [
                Segment(read_reference(self._files, r, check=False), f"{self._files.url}/{r.path}") for r in references
            ]
        return self._segments

    def _check_segments(self) -> None:
        for reference in self._commit.index:
            read_reference(self._files, reference)

    def _missing(self, wanted: pa.Array, views: Array, missing: Array) -> AlignmentError:
        ids = wanted.take(pa.array(missing)).to_pylist()
        keys = (
            ids if self._commit.views == 1 and not views.any() else list(zip(ids, views[missing].tolist(), strict=True))
        )
        return AlignmentError(
            f"the cache {self._files.url} lacks {len(missing):,} of {counted(len(wanted), 'key')}: {name_some(keys)}"
        )


def to_numpy(ids: pa.Array) -> Array:
    """Return sample ids as numpy: int64, or objects (str)."""
    return ids.to_numpy(zero_copy_only=False, writable=True)  # type: ignore[no-any-return]


def content_array(hashes: Any, rows: int) -> Array:
    """Return content hashes as uint8 [rows, 32]. Raises AlignmentError if they are none."""
    try:
        if isinstance(hashes, np.ndarray) and hashes.dtype == np.uint8:
            array = hashes
        else:
            joined = b"".join(bytes.fromhex(h) if isinstance(h, str) else bytes(h) for h in hashes)
            array = np.frombuffer(joined, np.uint8).reshape(-1, 32)
    except (TypeError, ValueError) as e:
        raise AlignmentError(f"hashes= are not content hashes: {e}") from e
    if array.shape != (rows, 32):
        raise AlignmentError(f"hashes= has shape {list(array.shape)}; expected [{rows}, 32]")
    return array
