"""Answers that are stored already, to be compared with the teacher's of today."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import torch

from softcache.arrays import Array
from softcache.builder.prepare.targets import BuildTarget
from softcache.read.columns import FlagColumn
from softcache.read.row_reader import open_columns
from softcache.read.sequences import SequenceReader
from softcache.read.shard_reader import ShardReader
from softcache.soft.keys import KnownKeys
from softcache.store.files import Files
from softcache.store.live_shards import LiveShard
from softcache.store.manifest import Manifest, dump_manifest
from softcache.store.shards import Shard


class StoredShard:
    """The values and `valid` of one shard, committed or not, read with its blocks checked."""

    def __init__(self, files: Files, shard: Shard, target: BuildTarget) -> None:
        """Open a shard of `target`; nothing is read yet but `valid`."""
        live = LiveShard(shard=shard, split="train", fragment=0, first_view=0, views=1, first_row=0)
        self._reader = ShardReader(
            files, Manifest(dump_manifest(target.name, [live]), target.name, shard.unit_key).shards()
        )
        self._target, self._shard_numbers = target, np.zeros(shard.rows, np.int64)
        self.valid = FlagColumn(self._reader, "valid").take(self._shard_numbers, np.arange(shard.rows))
        empty = target.codec.decoder.compared(target.codec.missing(1))
        self.eps = torch.finfo(empty.dtype).eps

    def items(self, rows: Array) -> tuple[dict[str, torch.Tensor], Array]:
        """Return the codec's columns of some rows, one item for each row or position, and the row of each item."""
        columns, shards = open_columns(self._reader, self._target.codec), self._shard_numbers[rows]
        if isinstance(columns, SequenceReader):
            keys = KnownKeys(rows, np.zeros_like(rows))
            found = columns.take(shards, rows, None, keys, None)
            return dict(found.columns), rows[found.row.numpy()]
        return {name: column.take(shards, rows) for name, column in columns.items()}, rows


def compared(
    target: BuildTarget, old: Mapping[str, torch.Tensor], new: Mapping[str, torch.Tensor], eps: float
) -> Iterator[tuple[str, torch.Tensor, torch.Tensor, float]]:
    """Yield what is compared of an item, each on its own scale: its values, and each of its parts.

    Each comes with the stored and the new numbers, float64 [n], and the relative step of the stored dtype.
    """
    values = target.codec.decoder.compared
    yield "the answer", values(old).double().flatten(), values(new).double().flatten(), eps
    for name in (part.name for part in target.task.stored_parts):
        yield name, old[name].double().flatten(), new[name].double().flatten(), 0.0
