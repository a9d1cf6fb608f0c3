"""A stored target: one teacher's answers to one task."""

from __future__ import annotations

from collections.abc import Mapping
from operator import getitem
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from softcache.codecs import Codec, codec_from_json
from softcache.codecs.fidelity import Errors
from softcache.errors import AlignmentError, FormatError, TaskError, counted, name_some
from softcache.read import hf, tables
from softcache.read.gather import FixedColumn, FlagColumn, Runs, ShardReader
from softcache.read.lookup import Keys, row_numbers
from softcache.read.row_keys import DeferredKeys, RowKeys
from softcache.read.sequences import SequenceReader, Spans, read_spans
from softcache.read.soft_sequences import SoftSequences
from softcache.read.soft_targets import SoftTargets
from softcache.read.stored_table import StoredTable
from softcache.store.commits import CommittedTarget
from softcache.store.files import Files
from softcache.store.manifest import TargetShards
from softcache.store.target_tables import open_table
from softcache.tasks import TaskSpec
from softcache.transfer.vocabulary import VOCABULARY, vocabulary, vocabulary_differences, vocabulary_hash

Array = np.ndarray[Any, Any]


class Target:
    """One target of a cache. Made by `cache[name]`; its files are mapped when rows are first read.

    Attributes:
        name: `task@teacher`.
        task: what it answers.
        codec: how it is stored.
        provenance: its declaration, fingerprint and the library versions that it was built with.
        stats: `rows`, `valid`, `bytes`, `skipped_rows`, and over the stored values `count`, `min`, `max`, `mean`,
            `std`.
        errors: how far its answers are from the teacher's, measured when it was built; None for features.
    """

    def __init__(
        self,
        name: str,
        committed: CommittedTarget,
        shards: TargetShards,
        keys: Keys,
        files: Files,
        split: str | None,
        cache: Mapping[str, Target],
        *,
        check: bool = True,
    ) -> None:
        self.name = name
        self._cache = cache
        self._files, self._shards, self._keys, self._split = files, shards, keys, split
        try:
            self.task = TaskSpec.from_json(committed.declaration["task"])
            self.codec = codec_from_json(committed.declaration["codec"], self.task)
            self.format = str(committed.declaration["format"])
            if (table := self.codec.table_name) is not None:
                shapes = self.codec.table_shapes
                self.codec = self.codec.with_table(StoredTable(files, committed.tables[table], shapes))
        except (KeyError, TypeError, AttributeError) as e:
            raise FormatError(f"{files.url}: target {name}: not a declaration: {e!r}") from e
        self.provenance = {
            "declaration": committed.declaration,
            "fingerprint": committed.fingerprint,
            "versions": committed.versions,
        }
        self.stats: dict[str, Any] = dict(committed.statistics) | {
            "rows": committed.rows,
            "valid": committed.valid,
            "bytes": committed.bytes,
            "skipped_rows": committed.skipped_rows,
        }
        self._tables = committed.tables
        measured = committed.statistics.get("errors")
        self.errors = None if measured is None else Errors.from_json(measured)
        self._reader = ShardReader(files, shards, check=check)
        self._in_split: Array = np.ones(len(shards.rows), np.bool_)
        if split is not None:
            self._in_split = pc.equal(shards.splits, split).to_numpy(zero_copy_only=False)
        self._columns: tuple[dict[str, FixedColumn] | SequenceReader, FlagColumn | None] | None = None

    def lookup(
        self, ids: Any, views: Any = None, *, hashes: Any = None, input_ids: Any = None, mask_uncovered: bool = False
    ) -> SoftTargets:
        """Return soft targets joined by sample id, in the order of `ids`, repeats included.

        `ids` [B] are integers or strings (tensor, array, sequence); `views` [B] or one number, may be left out while
        the cache has one view; `hashes` [B], content hashes of the samples, are compared where given, and so are
        `input_ids` [B, L], the samples' tokens (`SoftSequences.check_input_ids`). Where rows are sequences the result
        is a `SoftSequences`. Raises AlignmentError for keys that the cache lacks, for samples that have changed, and
        for those that this target does not cover, which with `mask_uncovered` are rows without an answer instead.
        """
        keys, rows = self._keys.find(ids, views)
        if hashes is not None:
            self._keys.check_contents(keys, rows, hashes)
        found = self._gather(rows, keys, mask_uncovered=mask_uncovered)
        if input_ids is not None:
            self._sequences(found).check_input_ids(input_ids)
        return found

    def lookup_spans(
        self, ids: Any, starts: Any, lengths: Any, views: Any = None, *, input_ids: Any = None
    ) -> SoftSequences:
        """Return runs of positions of sequences, joined by sample id: a student may cut and pack as it likes.

        Span i is what a student sees that is given `lengths[i]` tokens (of other sequences: positions) of sample
        `ids[i]` from `starts[i]` on; its position t is that of the token `starts[i] + t`. Where a span ends with its
        sample's last token, that has no next one and no answer. For a student that is given several spans in one row,
        without padding, the spans in order and its logits as [sum of lengths, C] belong together. `ids` may repeat.

        Raises AlignmentError for unknown keys, spans beyond a sample's end and other `input_ids` than the teacher's
        (compared where given), TaskError where rows are not sequences.
        """
        self._require_sequences()
        keys, rows = self._keys.find(ids, views)
        found = self._sequences(self._gather(rows, keys, spans=read_spans(starts, lengths, len(rows))))
        if input_ids is not None:
            found.check_input_ids(input_ids)
        return found

    def check_tokenizer(self, tokenizer: Any) -> None:
        """Compare a student's tokenizer (of the transformers library) with the teacher's: what each id means.

        Raises AlignmentError with the difference, TaskError unless the target is causal_lm.
        """
        table = self.table_of(VOCABULARY)
        if vocabulary_hash(theirs := vocabulary(tokenizer)) != self.task.tokenizer:
            raise AlignmentError(
                f"{self.name}: the student's token ids mean something else than the teacher's: "
                f"{vocabulary_differences(table, theirs)}"
            )

    def table_of(self, name: str) -> pa.RecordBatch:
        """Return one of the target's own tables, such as `vocabulary`, memory-mapped, checked.

        Raises TaskError if it has none of that name.
        """
        if name not in self._tables:
            raise TaskError(f"{self.name} ({self.task.kind}) has no table {name!r}")
        return open_table(self._files, self._tables[name])

    def read(self, rows: Any) -> SoftTargets:
        """Return soft targets by row number: a slice or integers [B].

        Raises AlignmentError for rows that are not there.
        """
        if isinstance(rows, slice):
            begin, end, step = rows.indices(self._shards.end)
            end = max(begin, end) if step > 0 else end
            runs = self._reader.runs(begin, end) if step == 1 and begin < end and self._split is None else None
            if runs is not None:
                return self._gather(range(begin, end), DeferredKeys(range(begin, end), self._keys.at), runs)
            rows = np.arange(begin, end, step)
            if self._split is not None:
                rows = rows[self._keys.in_split(rows, self._split)]
        numbers = row_numbers(rows)
        return self._gather(numbers, DeferredKeys(numbers, self._keys.at))

    def read_valid(self, rows: Array) -> Array:
        """Return `valid` as it is stored, bool [n]; `read` does not look where the commit says that all rows are."""
        shard, local = self._locate_all(rows, DeferredKeys(rows, self._keys.at))
        return FlagColumn(self._reader, "valid").take(shard, local)

    def read_stored(self, rows: Array) -> dict[str, Array]:
        """Return all of the codec's columns as they are stored, [n, ...] each, companions too; not of sequences."""
        shard, local = self._locate_all(rows, DeferredKeys(rows, self._keys.at))
        columns = self.codec.columns
        return {c.name: FixedColumn(self._reader, c.name, c.dtype, c.shape).take(shard, local).numpy() for c in columns}

    def check(self, ids: Any, views: Any = None) -> None:
        """Raise AlignmentError unless the cache has all ids and this target covers some. Reads keys, no values."""
        keys, rows = self._keys.find(ids, views)
        *_, covered = self._locate(rows)
        if covered is not None and len(rows) and not covered.any():
            raise self._uncovered(rows, keys)

    def covered_rows(self) -> Array:
        """Return the numbers of the rows that this target covers (in the split), int64, ascending."""
        first, rows = self._shards.first_row[self._in_split], self._shards.rows[self._in_split]
        pairs = zip(first.tolist(), rows.tolist(), strict=True)
        return np.concatenate([np.empty(0, np.int64), *(np.arange(first, first + rows) for first, rows in pairs)])

    def table(self) -> pa.Table:
        """Return all rows of the split as an Arrow table, memory-mapped, checked.

        Raises TaskError for a Zarr target.
        """
        self._require_arrow()
        return tables.read_table(self._files, self._shards, self._split)

    def to_hf(self, split: str | None = None) -> Any:
        """Return a memory-mapped `datasets.Dataset` of the committed rows, by default of all splits.

        Raises TaskError for a Zarr target or an unknown split, MissingExtra without `datasets`.
        """
        self._require_arrow()
        return hf.to_dataset(self._files, self._shards, split or self._split)

    def __len__(self) -> int:
        """Rows that this target covers, in all splits."""
        return int(self._shards.rows.sum())

    def __reduce__(self) -> Any:
        """A copy opens the same commit again: mapped memory does not travel."""
        return getitem, (self._cache, self.name)

    def __repr__(self) -> str:
        return f"<Target {self.name}: {len(self):,} rows of {self.task.kind} {list(self.task.shape)}>"

    def _gather(
        self,
        rows: Array | range,
        keys: RowKeys,
        runs: Runs | None = None,
        spans: Spans | None = None,
        *,
        mask_uncovered: bool = False,
    ) -> SoftTargets:
        """Return rows, copied whole where they are known to lie in `runs`; of lists perhaps some spans."""
        columns, valid = self._open_columns()
        covered = None
        if isinstance(columns, SequenceReader) or runs is None or valid is not None:
            numbers = np.asarray(rows, np.int64)
            if mask_uncovered:
                shard, local, covered = self._locate(numbers)
            else:
                shard, local = self._locate_all(numbers, keys)
        if covered is not None:
            shard, local = np.where(covered, shard, 0), np.where(covered, local, 0)
        mask = covered if valid is None else valid.take(shard, local)
        if valid is not None and covered is not None:
            mask &= covered
        if isinstance(columns, SequenceReader):
            return columns.take(shard, local, mask, keys, spans)
        if runs is None:
            stored = {name: column.take(shard, local) for name, column in columns.items()}
        else:
            stored = {name: column.take_runs(runs) for name, column in columns.items()}
        if covered is not None:
            self._blank(stored, ~covered)
        answered = torch.ones(len(rows), dtype=torch.bool) if mask is None else torch.from_numpy(mask)
        return SoftTargets(decoder=self.codec, columns=stored, mask=answered, keys=keys)

    def _blank(self, stored: dict[str, torch.Tensor], rows: Array) -> None:
        """Make rows, where `rows` (bool [n]) is True, those of a missing answer."""
        missing = self.codec.missing(1)
        for name, column in stored.items():
            column.numpy()[rows] = missing[name].numpy()

    def _locate(self, rows: Array) -> tuple[Array, Array, Array | None]:
        """Return the shard and the row within it of each row, and which are covered (in the split), None if all."""
        shard, local, covered = self._reader.locate(rows)
        if self._split is not None:
            inside = self._in_split[shard]
            covered = inside if covered is None else covered & inside
        return shard, local, None if covered is None or covered.all() else covered

    def _locate_all(self, rows: Array, keys: RowKeys) -> tuple[Array, Array]:
        """Return the shard and the row within it of each row. Raises AlignmentError unless all are covered."""
        shard, local, covered = self._locate(rows)
        if covered is not None:
            raise self._uncovered(rows[~covered], keys.take(~covered))
        return shard, local

    def _open_columns(self) -> tuple[dict[str, FixedColumn] | SequenceReader, FlagColumn | None]:
        """Open the codec's columns, and `valid` unless the commit says that every row has an answer."""
        if self._columns is None:
            everywhere = self.stats["valid"] == self.stats["rows"]
            self._columns = (
                open_columns(self._reader, self.codec),
                (None if everywhere else FlagColumn(self._reader, "valid")),
            )
        return self._columns

    def _sequences(self, found: SoftTargets) -> SoftSequences:
        self._require_sequences()
        assert isinstance(found, SoftSequences)
        return found

    def _require_sequences(self) -> None:
        if not self.task.is_list:
            raise TaskError(f"{self.name} is a {self.task.kind} target: its rows are no sequences")

    def _uncovered(self, rows: Array, keys: RowKeys) -> AlignmentError:
        by_row = isinstance(keys, DeferredKeys)
        named = f"rows {name_some(rows.tolist())}" if by_row else f"samples {name_some(keys.ids.tolist())}"
        where = "" if self._split is None else f" in split {self._split}"
        return AlignmentError(
            f"no answer of {self.name}{where} for {counted(len(rows), 'row')}: {named}; build it for them"
        )

    def _require_arrow(self) -> None:
        if self.format != "arrow":
            raise TaskError(f"{self.name} is stored with Zarr; use .read or .lookup, or open its shards with zarr")


def open_columns(reader: ShardReader, codec: Codec) -> dict[str, FixedColumn] | SequenceReader:
    """Return what reads a codec's columns."""
    if codec.task.is_list:
        return SequenceReader(reader, codec)
    return {c.name: FixedColumn(reader, c.name, c.dtype, c.shape) for c in codec.columns if not c.companion}
