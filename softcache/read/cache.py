"""An open cache: one commit."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from softcache.arrays import Array
from softcache.errors import AlignmentError, TaskError
from softcache.read import arrow_tables, hf
from softcache.read.lookup import Keys, row_numbers
from softcache.read.span import closed
from softcache.read.target import Target, TargetSource
from softcache.soft.batch import resolve_name
from softcache.store.commits import Commit
from softcache.store.files import Files, connect
from softcache.store.live_shards import TargetShards
from softcache.store.manifest import CommittedTarget
from softcache.store.state import State, read_state


class Cache(Mapping[str, Target]):
    """One commit of a cache: a mapping of targets by name. Made by `softcache.open`.

    It does not change while later commits are published. It can be pickled; the copy opens the same commit. Leaving a
    `with` statement closes it. `state` is the commit with its manifests.

    Examples:
        >>> cache = softcache.open("runs/digits")
        >>> cache.targets
        ('digit@a', 'digit@b', 'digit@c', 'embedding@a')
        >>> cache["embedding"].name, cache.commit.splits
        ('embedding@a', {'train': 1797})
    """

    def __init__(
        self,
        files: Files,
        number: int | None = None,
        split: str | None = None,
        *,
        check: bool = True,
        state: State | None = None,
    ) -> None:
        """Open commit `number`, or one whose `state` has been read already."""
        state = read_state(files, number) if state is None else state
        self._files, self.state, self._split, self._check = files, state, split, check
        self._rows, self._names = state.rows, state.commit.targets
        self._keys = Keys(files, state.commit, self._rows, check=check)
        self._targets: dict[str, Target] = {}
        self._is_closed = False

    @property
    def url(self) -> str:
        """The path or URL of the cache."""
        return self._files.url

    @property
    def commit(self) -> Commit:
        """The open commit: its number, splits, and the provenance of its transfer set and targets."""
        return self.state.commit

    @property
    def targets(self) -> tuple[str, ...]:
        """The names of all targets but `rows`."""
        return self._names

    def committed(self, target: str) -> CommittedTarget:
        """Return what the commit says about a target: its declaration, versions, statistics and skipped samples.

        Raises UnknownTarget, which lists the targets; IntegrityError; FormatError.
        """
        return self.state.committed(resolve_name(target, self.targets))

    @property
    def rows(self) -> Rows:
        """The `rows` target: sample ids, views, content hashes and kept columns."""
        return Rows(self._files, self._rows, self._split)

    @property
    def row_numbers(self) -> Array:
        """The row numbers of the cache, or of the split it is narrowed to: int64, ascending."""
        if self._split is None:
            return np.arange(self.commit.rows)
        chosen = pc.equal(self._rows.splits, self._split).to_numpy(zero_copy_only=False)
        pairs = zip(self._rows.first_row[chosen].tolist(), self._rows.rows[chosen].tolist(), strict=True)
        return np.concatenate([np.arange(first, first + rows) for first, rows in pairs])

    def find(self, ids: Any, views: Any = None) -> Array:
        """Return the row numbers of samples (and views), int64 [B]. Raises AlignmentError as `Target.lookup` does."""
        return self._keys.find(ids, views)[1]

    def check_contents(self, ids: Any, hashes: Any, views: Any = None) -> None:
        """Compare samples' content hashes with those that the teachers saw.

        Raises AlignmentError naming changed samples.
        """
        keys, rows = self._keys.find(ids, views)
        self._keys.check_contents(keys, rows, hashes)

    def checks(self, rows: Any) -> Array:
        """Return the checks of the views that teachers saw, uint8 [B, 8], by row number.

        Raises TaskError unless the cache is augmented, AlignmentError for rows that do not exist.
        """
        return self._keys.checks(self._view_rows(rows))

    def parameters(self, rows: Any) -> list[dict[str, Any] | None] | None:
        """Return the parameters of views by row number, None where the transform draws none.

        Raises as `checks`.
        """
        return self._keys.parameters(self._view_rows(rows))

    def split(self, name: str) -> Cache:
        """Return the same commit narrowed to one split. Raises TaskError if no split has that name."""
        if name not in self.commit.splits:
            raise TaskError(f"{self.url} has no split {name!r}; it has {', '.join(self.commit.splits)}")
        return Cache(self._files, split=name, check=self._check, state=self.state)

    def close(self) -> None:
        """Unmap all shards. Looking up or reading rows of this cache and its targets then raises StorageError.

        What has been looked up is a copy, and stays; only the ids of rows that were read by number are looked up when
        they are first asked for. A cache that is dropped unmaps its shards too, whenever Python collects it.
        """
        self._is_closed = True
        self._keys.close()
        for target in self._targets.values():
            target.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _view_rows(self, rows: Any) -> Array:
        """Return row numbers as int64. Raises TaskError or AlignmentError unless the cache has views of them."""
        if self.commit.augmentation is None:
            raise TaskError(f"{self.url} is not augmented: its teachers saw the samples as they are")
        numbers = row_numbers(rows)
        if numbers.size and not 0 <= numbers.min() <= numbers.max() < self.commit.rows:
            raise AlignmentError(f"rows {numbers.min()} to {numbers.max()}; the cache has {self.commit.rows:,}")
        return numbers

    def __getitem__(self, name: str) -> Target:
        """Return a target by its name, or by its task's name if only one target answers that task.

        Raises UnknownTarget, which lists the targets; UnsupportedVersion if this version does not know its format,
        kind or codec; IntegrityError; FormatError.
        """
        full = resolve_name(name, self.targets)
        if self._is_closed:
            raise closed(self._files)
        if full not in self._targets:
            source = TargetSource(
                cache=self,
                files=self._files,
                keys=self._keys,
                shards=self.state.shards(full),
                split=self._split,
                check=self._check,
            )
            self._targets[full] = Target(full, self.state.committed(full), source)
        return self._targets[full]

    def __iter__(self) -> Iterator[str]:
        return iter(self.targets)

    def __len__(self) -> int:
        """Number of targets. The number of rows is `len(cache.row_numbers)`."""
        return len(self.targets)

    def __repr__(self) -> str:
        narrowed = "" if self._split is None else f", split {self._split}"
        return f"<Cache {self.url} commit {self.commit.number}{narrowed}: {', '.join(self.targets)}>"

    def __reduce__(self) -> Any:
        return _reopen, (self._files, self.commit.number, self._split, self._check)


class Rows:
    """The `rows` target of a cache."""

    def __init__(self, files: Files, shards: TargetShards, split: str | None) -> None:
        self._files, self._shards, self._split = files, shards, split

    def table(self) -> pa.Table:
        """Return an Arrow table with a row for each row number: view, sample_id, split, content and the kept columns.

        For an augmented cache it also has the `check` and perhaps the `parameters` (JSON) of each view. It is
        memory-mapped unless samples have several views.
        """
        return arrow_tables.read_rows(self._files, self._shards, self._split)

    def to_hf(self, split: str | None = None) -> Any:
        """Return a memory-mapped `datasets.Dataset` of the rows as they are stored, one for each sample of a fragment.

        Raises TaskError for an unknown split, MissingExtra without `datasets`.
        """
        return hf.to_dataset(self._files, self._shards, split or self._split)


def open(url: str | os.PathLike[str], *, commit: int | None = None, check: bool = True) -> Cache:
    """Open a cache at a path or fsspec URL, by default its newest commit.

    Only the commit and the manifest of `rows` are read; that of a target is read when it is first used. With `check`
    (default) each block is compared with its checksum when this process first reads it. Raises FormatError if there is
    no cache, IncompleteCache before the first commit, UnsupportedVersion, IntegrityError, StorageError.

    Examples:
        >>> cache = softcache.open("runs/digits")
        >>> cache["digit@a"].lookup([7]).probs(temperature=4.0).shape
        torch.Size([1, 10])
    """
    return Cache(connect(url), commit, check=check)


def _reopen(files: Files, number: int, split: str | None, check: bool) -> Cache:
    return Cache(files, number, split, check=check)
