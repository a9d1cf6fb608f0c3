"""A stored target: one teacher's answers to one task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from operator import getitem
from typing import Any

import numpy as np
import pyarrow as pa

from softcache.arrays import Array
from softcache.codecs import codec_from_json
from softcache.codecs.fidelity import Errors
from softcache.errors import AlignmentError, FormatError, TaskError
from softcache.read import arrow_tables, hf
from softcache.read.codec_table import with_table
from softcache.read.lookup import Keys, row_numbers
from softcache.read.row_reader import RowReader
from softcache.read.sequences import read_spans
from softcache.soft import tables
from softcache.soft.keys import DeferredKeys, RowKeys
from softcache.soft.sequences import SoftSequences
from softcache.soft.targets import SoftTargets
from softcache.store.files import Files
from softcache.store.live_shards import TargetShards
from softcache.store.manifest import CommittedTarget
from softcache.store.shards import known_format
from softcache.store.target_tables import open_table
from softcache.tasks import TaskSpec
from softcache.transfer.vocabulary import VOCABULARY, vocabulary, vocabulary_differences, vocabulary_hash


@dataclass(frozen=True, eq=False, kw_only=True)
class TargetSource:
    """Where a target comes from: its cache, the cache's files and keys, its shards, and perhaps one split of them."""

    cache: Mapping[str, Target]
    files: Files
    keys: Keys
    shards: TargetShards
    split: str | None
    check: bool


class Target:
    """One target of a cache. Made by `cache[name]`; its files are mapped when rows are first read.

    Attributes:
        name: `task@teacher`.
        task: what it answers.
        codec: how it is stored.
        format: `arrow` or `zarr`.
        provenance: its declaration and fingerprint, and the library versions that it was built with.
        stats: `rows`, `valid`, `bytes`, `skipped_rows`, and over the stored values `count`, `min`, `max`, `mean`,
            `std`.
        errors: how far its answers are from the teacher's, measured when it was built; None for features.

    Examples:
        >>> target = softcache.open("runs/digits")["digit@a"]
        >>> target.task.shape, target.stats["rows"]
        ((10,), 1797)
    """

    def __init__(self, name: str, committed: CommittedTarget, source: TargetSource) -> None:
        self.name = name
        self._source, self._tables = source, committed.tables
        try:
            self.task = TaskSpec.from_json(committed.declaration["task"])
            codec = codec_from_json(committed.declaration["codec"], self.task)
            self.codec = with_table(codec, source.files, committed.tables)
            self.format = known_format(committed.declaration["format"], f"{source.files.url}: target {name}")
        except (KeyError, TypeError, AttributeError) as e:
            raise FormatError(f"{source.files.url}: target {name}: not a declaration: {e!r}") from e
        self.provenance: dict[str, Any] = {
            "declaration": committed.declaration,
            "fingerprint": committed.fingerprint,
            "versions": committed.versions,
        }
        self.stats: dict[str, Any] = {
            **committed.statistics,
            "rows": committed.rows,
            "valid": committed.valid,
            "bytes": committed.bytes,
            "skipped_rows": committed.skipped_rows,
        }
        measured = committed.statistics.get("errors")
        self.errors = None if measured is None else Errors.from_json(measured)
        self._rows = RowReader(
            source.files,
            source.shards,
            self.codec,
            source.split,
            has_gaps=committed.valid != committed.rows,
            check=source.check,
        )

    def lookup(
        self, ids: Any, views: Any = None, *, hashes: Any = None, input_ids: Any = None, mask_uncovered: bool = False
    ) -> SoftTargets | SoftSequences:
        """Return soft targets joined by sample id, in the order of `ids`, repeats included.

        Args:
            ids: [B] integers or strings: a tensor, array or sequence.
            views: [B] or one number. Needed if the cache has several views of a sample.
            hashes: [B] content hashes of the samples, compared with the stored ones if given.
            input_ids: [B, L] the samples' tokens, compared with the stored ones if given
                (`SoftSequences.check_input_ids`).
            mask_uncovered: whether samples that this target does not cover become rows without an answer; otherwise
                they are an error.

        Returns `SoftSequences` if rows are sequences, otherwise `SoftTargets`.

        Raises AlignmentError for keys that the cache lacks, samples that have changed or are not covered, and other
        tokens.
        """
        keys, rows = self._source.keys.find(ids, views)
        if hashes is not None:
            self._source.keys.check_contents(keys, rows, hashes)
        found = self._rows.take(rows, keys, mask_uncovered=mask_uncovered)
        if input_ids is not None:
            self._sequences(found).check_input_ids(input_ids)
        return found

    def lookup_spans(
        self, ids: Any, starts: Any, lengths: Any, views: Any = None, *, input_ids: Any = None
    ) -> SoftSequences:
        """Return spans of sequences, joined by sample id, so that a student can cut and pack its samples.

        Span i is for a student that sees `lengths[i]` tokens (or positions, if the target has no tokens) of sample
        `ids[i]`, starting at `starts[i]`: position t of the span is token `starts[i] + t`. A sample's last token has no
        next token, so it has no answer. If a row of the student has several spans without padding, pass the spans in
        order and its logits as [sum of lengths, C]. `ids` may repeat.

        Raises AlignmentError for unknown keys, for spans that end after their sample, and for `input_ids` that differ
        from the teacher's (compared if given); TaskError if rows are not sequences.
        """
        self._require_sequences()
        keys, rows = self._source.keys.find(ids, views)
        found = self._sequences(self._rows.take(rows, keys, read_spans(starts, lengths, len(rows))))
        if input_ids is not None:
            found.check_input_ids(input_ids)
        return found

    def lengths(self, ids: Any, views: Any = None) -> Array:
        """Return how many tokens each sample has, or positions if the target has no tokens: int64 [B].

        0 where there is no answer. No values are read. Raises AlignmentError as `lookup`, TaskError if rows are not
        sequences.

        Examples:
            >>> softcache.open("runs/lm")["next"].lengths([0, 1]).shape
            (2,)
        """
        self._require_sequences()
        keys, rows = self._source.keys.find(ids, views)
        return self._rows.lengths(rows, keys)

    def check_tokenizer(self, tokenizer: Any) -> None:
        """Compare what each id means in a student's tokenizer (of transformers) and in the teacher's.

        Raises AlignmentError with the differences, TaskError unless the target is causal_lm.
        """
        table = self.table_of(VOCABULARY)
        if vocabulary_hash(theirs := vocabulary(tokenizer)) != self.task.tokenizer:
            raise AlignmentError(
                f"{self.name}: the student's token ids do not mean what the teacher's mean: "
                f"{vocabulary_differences(table, theirs)}"
            )

    def table_of(self, name: str) -> pa.RecordBatch:
        """Return one of the target's own tables, such as `vocabulary`, memory-mapped, checked.

        Raises TaskError if it has none of that name.
        """
        if name not in self._tables:
            raise TaskError(f"{self.name} ({self.task.kind}) has no table {name!r}")
        return open_table(self._source.files, self._tables[name])

    def read(self, rows: Any) -> SoftTargets | SoftSequences:
        """Return soft targets by row number: a slice or integers [B].

        Raises AlignmentError for rows that the target does not cover.
        """
        if not isinstance(rows, slice):
            return self._read(row_numbers(rows))
        begin, end, step = rows.indices(self._source.shards.end)
        if step == 1:
            found = self._rows.take_range(begin, end, DeferredKeys(range(begin, end), self._source.keys.at))
            if found is not None:
                return found
        numbers = np.arange(begin, max(begin, end) if step > 0 else end, step)
        if self._source.split is not None:
            numbers = numbers[self._source.keys.in_split(numbers, self._source.split)]
        return self._read(numbers)

    def _read(self, numbers: Array) -> SoftTargets | SoftSequences:
        return self._rows.take(numbers, DeferredKeys(numbers, self._source.keys.at))

    def read_valid(self, rows: Array) -> Array:
        """Return the flags `valid` by row number as they are stored, bool [n]."""
        return self._rows.valid(rows, DeferredKeys(rows, self._source.keys.at))

    def read_columns(self, rows: Array) -> dict[str, Array]:
        """Return all stored columns by row number, [n, ...] each, companions too. Not for sequences."""
        return self._rows.stored_columns(rows, DeferredKeys(rows, self._source.keys.at))

    def check(self, ids: Any, views: Any = None) -> None:
        """Raise AlignmentError unless the cache has all ids and this target covers some. Reads only keys."""
        keys, rows = self._source.keys.find(ids, views)
        *_, covered = self._rows.locate(rows)
        if covered is not None and len(rows) and not covered.any():
            raise self._rows.uncovered(rows, keys)

    def covered_rows(self) -> Array:
        """Return the numbers of the rows that this target covers (in the split), int64, ascending."""
        return self._rows.covered_rows()

    def covered_keys(self, split: str | None = None) -> RowKeys:
        """Return the ids and views of the rows that this target covers (in a split), in the order of their numbers.

        Raises TaskError for a split that it does not have.
        """
        return DeferredKeys(self._rows.covered_rows(split), self._source.keys.at)

    @property
    def most_views(self) -> int:
        """How many views of a sample the cache has at most."""
        return self._source.keys.most_views

    def table(self) -> pa.Table:
        """Return all rows of the split as an Arrow table, memory-mapped, checked.

        Raises TaskError for a Zarr target.
        """
        self._require_arrow()
        return arrow_tables.read_table(self._source.files, self._source.shards, self._source.split)

    def to_pandas(self, temperature: float = 1.0, split: str | None = None) -> Any:
        """Return the probabilities p(T) of every row with an answer, for LightGBM, scikit-learn and the like.

        It is a `pandas.DataFrame` of float32 with one column a class, named by its label, or by its number (int) if the
        task has no labels; a specialist's last column is `dustbin`. The index is `sample_id`, or (`sample_id`, `view`)
        if the cache has several views of a sample. Rows without an answer are left out, so that a model can be fitted
        to `X.loc[table.index]` and the table. Targets without classes give their numbers, in columns 0, 1, ...

        Raises TaskError for sequences and maps, for an invalid temperature, or any where there are no classes; for an
        unknown split; and if the table would take more than 4 GiB. Raises MissingExtra without pandas.

        Examples:
            >>> table = softcache.open("runs/digits")["digit@a"].to_pandas(temperature=4.0)
            >>> table.shape, table.index.name, int(table.loc[7].idxmax())
            ((1797, 10), 'sample_id', 7)
        """
        return tables.to_pandas(self, temperature, split)

    def to_hf(self, split: str | None = None, temperature: float | None = None) -> Any:
        """Return a `datasets.Dataset`, by default of all splits.

        Without a temperature these are the committed rows as they are stored, memory-mapped. With one they are the
        `sample_id`, `view` and `probs` (float32 [C], p(T)) of every row with an answer, in memory.

        Raises TaskError for an unknown split, without a temperature for a Zarr target, and with one as `to_pandas`, or
        if the target has no classes. Raises MissingExtra without `datasets`.
        """
        if temperature is not None:
            return tables.to_hf(self, temperature, split)
        self._require_arrow()
        return hf.to_dataset(self._source.files, self._source.shards, split or self._source.split)

    def close(self) -> None:
        """Unmap its shards. Reading it then raises StorageError."""
        self._rows.close()

    def __len__(self) -> int:
        """Return the number of rows that this target covers, in all splits."""
        return int(self._source.shards.rows.sum())

    def __reduce__(self) -> Any:
        """Pickle as the cache and the name: the copy opens the same commit, since mapped memory does not travel."""
        return getitem, (self._source.cache, self.name)

    def __repr__(self) -> str:
        return f"<Target {self.name}: {len(self):,} rows of {self.task.kind} {list(self.task.shape)}>"

    def _sequences(self, found: SoftTargets | SoftSequences) -> SoftSequences:
        self._require_sequences()
        assert isinstance(found, SoftSequences)
        return found

    def _require_sequences(self) -> None:
        if not self.task.is_list:
            raise TaskError(f"{self.name} is a {self.task.kind} target: its rows are not sequences")

    def _require_arrow(self) -> None:
        if self.format != "arrow":
            raise TaskError(f"{self.name} is stored with Zarr; use .read or .lookup, or open its shards with zarr")
