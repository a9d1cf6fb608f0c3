"""From keys to row numbers through the index, proved by the stored keys; and back."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from softcache.arrays import Array
from softcache.errors import AlignmentError, counted, name_some
from softcache.read.columns import FixedColumn, TextColumn
from softcache.read.shard_reader import ShardReader
from softcache.soft.keys import ArrowKeys, KnownKeys, RowKeys, ids_to_numpy
from softcache.store.commits import Commit
from softcache.store.files import Files
from softcache.store.index import Segment, candidates
from softcache.store.keys import id_array, index_keys, key_type
from softcache.store.live_shards import TargetShards
from softcache.store.references import read_reference
from softcache.transfer.view_checks import CHECK_BYTES


class Keys:
    """The keys of a cache's rows: (sample_id, view) and the content hash of each."""

    def __init__(self, files: Files, commit: Commit, rows: TargetShards, *, check: bool = True) -> None:
        self._files, self._commit = files, commit
        self._reader = ShardReader(files, rows, check=check)
        self._is_text = commit.id_type == "string"
        samples = rows.rows // rows.views
        self._ids: FixedColumn | TextColumn = (
            TextColumn(self._reader, "sample_id", samples)
            if self._is_text
            else FixedColumn(self._reader, "sample_id", "int64", (), samples)
        )
        self._segments: list[Segment] | None = None
        self._checks: FixedColumn | None = None

    def find(self, ids: Any, views: Any = None) -> tuple[RowKeys, Array]:
        """Return the keys that are asked for, and their row numbers, int64 [n].

        Raises AlignmentError for keys that the cache lacks, with some of them and their number.
        """
        keys = self._wanted(ids, views)
        rows, segments = np.full(len(keys.views), -1, np.int64), self._open_segments()
        numbers = index_keys(keys.arrow) if isinstance(keys, ArrowKeys) else keys.ids
        if self._commit.views == 1 and not self._is_text and (views is None or not keys.views.any()):
            for segment in segments:
                segment.fill_in(numbers, rows)
            if self._all_found(rows):
                return keys, rows
        for positions, found in candidates(segments, numbers):
            positions, found = self._confirm(keys, positions, found)
            rows[positions] = found
            if self._all_found(rows):
                return keys, rows
        for reference in self._commit.index:
            read_reference(self._files, reference)
        raise self._missing(keys, rows)

    def close(self) -> None:
        """Unmap the shards of `rows`. Reading them then raises StorageError."""
        self._reader.close()

    @property
    def most_views(self) -> int:
        """How many views of a sample the cache has at most."""
        return self._commit.views

    def ids(self, rows: Array) -> Array:
        """Return sample ids by row number: numpy int64 or objects (str) [n]."""
        return ids_to_numpy(self.arrow_ids(rows))

    def arrow_ids(self, rows: Array) -> pa.Array:
        """Return sample ids by row number as an int64 or string Arrow array [n]."""
        shard, sample, _ = self._locate(rows)
        if isinstance(self._ids, TextColumn):
            return self._ids.take_strings(shard, sample)
        return pa.array(self._ids.take(shard, sample).numpy())

    def views(self, rows: Array) -> Array:
        """Return views by row number, int32 [n]."""
        if self._commit.views == 1:
            return np.zeros(len(rows), np.int32)
        shard, _, step = self._locate(rows)
        views: Array = self._reader.shards.first_views[shard] + step
        return views.astype(np.int32)

    def in_split(self, rows: Array, split: str) -> Array:
        """Whether each row belongs to a split, bool [n]."""
        splits: Array = pc.equal(self._reader.shards.splits, split).to_numpy(zero_copy_only=False)
        shard, _, _ = self._reader.locate(rows)
        return splits[shard]

    def at(self, rows: Array) -> tuple[Array, Array]:
        """Return sample ids and views by row number, [n] each."""
        return self.ids(rows), self.views(rows)

    def check_contents(self, keys: RowKeys, rows: Array, hashes: Any) -> None:
        """Compare content hashes (uint8 [n, 32], or n times 32 bytes or 64 hexadecimal digits) with the stored ones.

        Raises AlignmentError naming samples that have changed.
        """
        given = content_array(hashes, len(rows))
        shard, sample, _ = self._locate(rows)
        data, ends = TextColumn(self._reader, "content", self._samples).take(shard, sample)
        if (np.diff(ends) != 32).any():
            raise self._reader.bad("content", "is not 32 bytes a row")
        changed = np.flatnonzero((data.reshape(-1, 32) != given).any(1))
        if len(changed):
            names = name_some(keys.ids[changed].tolist())
            raise AlignmentError(
                f"not what the teachers saw (another content hash): {counted(len(changed), 'sample')}, {names}"
            )

    def checks(self, rows: Array) -> Array:
        """Return the checks of the views that teachers saw, uint8 [n, 8], by row number. Only for augmented caches."""
        if self._checks is None:
            self._checks = FixedColumn(self._reader, "check", "uint8", (CHECK_BYTES,), self._reader.shards.rows)
        shard, local, _ = self._reader.locate(rows)
        return self._checks.take(shard, local).numpy()

    def parameters(self, rows: Array) -> list[dict[str, Any] | None] | None:
        """Return the parameters of views by row number, None where the transform draws none. Raises FormatError."""
        if self._reader.shards.column("parameters.data") is None:
            return None
        shard, sample, step = self._locate(rows)
        texts = TextColumn(self._reader, "parameters", self._samples).take_strings(shard, sample)
        try:
            found = [json.loads(text)[view] for text, view in zip(texts.to_pylist(), step.tolist(), strict=True)]
        except (ValueError, LookupError, TypeError, RecursionError) as e:
            raise self._reader.bad("parameters", f"does not hold one for each view: {e!r}") from e
        if not all(one is None or isinstance(one, dict) for one in found):
            raise self._reader.bad("parameters", "holds something else than objects")
        return found

    def _locate(self, rows: Array) -> tuple[Array, Array, Array]:
        """Return for each row its shard, its sample in that shard, and the number of its view in the fragment."""
        shard, local, _ = self._reader.locate(rows)
        if self._commit.views == 1:
            return shard, local, np.zeros_like(local)
        views = self._reader.shards.views[shard]
        return shard, local // views, local % views

    @property
    def _samples(self) -> Array:
        """The number of samples in each shard."""
        return self._reader.shards.rows // self._reader.shards.views

    def _wanted(self, ids: Any, views: Any) -> KnownKeys | ArrowKeys:
        numbers = None if self._is_text else _integer_ids(ids)
        if numbers is not None:
            return KnownKeys(numbers.copy(), self._wanted_views(views, len(numbers)))
        wanted = id_array(ids)
        expected = pa.string() if self._is_text else pa.int64()
        if wanted.type != expected and len(wanted):
            raise AlignmentError(f"sample ids are {wanted.type}, those of the cache are {expected}")
        return ArrowKeys(wanted.cast(expected), self._wanted_views(views, len(wanted)))

    def _wanted_views(self, views: Any, count: int) -> Array:
        if views is None:
            if self._commit.views != 1:
                raise AlignmentError(
                    f"the cache has up to {self._commit.views} views of a sample; say which one (views= of a lookup, "
                    "view= of softcache.join), or use softcache.views"
                )
            return np.zeros(count, np.int32)
        numbers = np.asarray(views)
        if numbers.shape not in ((), (count,)):
            raise AlignmentError(f"views has the shape {list(numbers.shape)}; expected a number or [{count}]")
        numbers = np.broadcast_to(numbers, (count,))
        if numbers.dtype.kind not in "iu" or (numbers < 0).any() or (numbers > 2**31 - 1).any():
            raise AlignmentError("views must be integers from 0")
        return numbers.astype(np.int32)

    def _all_found(self, rows: Array) -> bool:
        """Whether all rows have been found. Seen as uint64, the -1 of a missing row is larger than any row number."""
        return bool(rows.view(np.uint64).max(initial=0) < self._commit.rows)

    def _confirm(self, keys: KnownKeys | ArrowKeys, positions: Array, first: Array) -> tuple[Array, Array]:
        """Return the positions and rows of those index entries, given with their sample's `first` rows, that match."""
        shard, _, inside = self._reader.locate(first)
        steps = keys.views[positions] - self._reader.shards.first_views[shard]
        fits = (steps >= 0) & (steps < self._reader.shards.views[shard])
        fits = fits if inside is None else fits & inside
        positions, rows = positions[fits], (first + steps)[fits]
        if self._is_text and isinstance(keys, ArrowKeys):
            same = pc.equal(self.arrow_ids(rows), keys.arrow.take(pa.array(positions))).to_numpy(zero_copy_only=False)
            positions, rows = positions[same], rows[same]
        return positions, rows

    def _open_segments(self) -> list[Segment]:
        if self._segments is None:
            kind, opened = key_type(self._commit.id_type), []
            for reference in self._commit.index:
                data = read_reference(self._files, reference, check=False)
                opened.append(Segment(data, kind, reference.blocks, f"{self._files.url}/{reference.path}"))
            self._segments = opened
        return self._segments

    def _missing(self, keys: RowKeys, rows: Array) -> AlignmentError:
        missing = keys.take((rows < 0) | (rows >= self._commit.rows))
        named = missing.ids.tolist()
        if self._commit.views > 1 or keys.views.any():
            named = list(zip(named, missing.views.tolist(), strict=True))
        return AlignmentError(
            f"the cache {self._files.url} lacks {len(named):,} of {counted(len(rows), 'key')}: {name_some(named)}"
        )


def row_numbers(rows: Any) -> Array:
    """Return row numbers as int64 [n]. Raises AlignmentError for anything but integers in one dimension."""
    try:
        numbers = np.asarray(rows)
    except ValueError as e:
        raise AlignmentError(f"row numbers must be integers [B]: {e}") from e
    if numbers.ndim != 1 or (numbers.size and numbers.dtype.kind not in "iu"):
        raise AlignmentError(f"row numbers must be integers [B], not {numbers.dtype} {list(numbers.shape)}")
    return numbers.astype(np.int64)


def _integer_ids(ids: Any) -> Array | None:
    """Return an int64 tensor or array [n] as numpy without going through Arrow; None for anything else."""
    numbers = ids.numpy() if isinstance(ids, torch.Tensor) and ids.is_cpu else ids
    plain = isinstance(numbers, np.ndarray) and numbers.dtype == np.int64 and numbers.ndim == 1
    return numbers if plain else None


def content_array(hashes: Any, rows: int) -> Array:
    """Return content hashes as uint8 [rows, 32]. Raises AlignmentError if they are no content hashes."""
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
