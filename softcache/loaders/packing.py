"""Packing for language models: several samples in one row of tokens, each seeing only itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from softcache.arrays import Array
from softcache.errors import TaskError
from softcache.loaders.targets import SOFT, Fields
from softcache.read.cache import Cache
from softcache.read.target import Target
from softcache.soft.batch import SoftBatch
from softcache.soft.keys import ids_to_numpy
from softcache.soft.packing import NO_TOKEN
from softcache.soft.sequences import SoftSequences
from softcache.store.keys import id_array


class Pack(NamedTuple):
    """Spans of samples that share a row: tokens `starts[i]` to before `starts[i] + lengths[i]` of sample `ids[i]`."""

    ids: Array
    starts: Array
    lengths: Array


class OnePack(Fields):
    """The fields of a batch of one pack."""


class PackedBatch(Sequence[Any]):
    """Some packs of a dataset, before collation. As a sequence it gives each as a batch of one pack."""

    def __init__(self, packs: Sequence[Pack], targets: Sequence[Target]) -> None:
        self.packs, self.targets = packs, targets

    def __len__(self) -> int:
        return len(self.packs)

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return PackedBatch(self.packs[i], self.targets)
        return OnePack(collate_packs(PackedBatch([self.packs[i]], self.targets)))


class PackedDataset(Dataset[Any]):
    """Packs of the samples of a cache, for language models. Made by `softcache.pack`. An item is a batch of one pack.

    Attributes:
        packs: the spans of each pack.
    """

    def __init__(self, packs: Sequence[Pack], targets: Sequence[Target]) -> None:
        self.packs, self._targets = packs, targets

    def __len__(self) -> int:
        return len(self.packs)

    def __getitem__(self, position: int | slice) -> Any:
        if isinstance(position, slice):
            return self.__getitems__(range(*position.indices(len(self))))
        return collate_packs(PackedBatch([self.packs[position]], self._targets))

    def __getitems__(self, positions: Sequence[int]) -> PackedBatch:
        """Return several packs; `softcache.collate_packs` makes a batch of them."""
        return PackedBatch([self.packs[i] for i in positions], self._targets)


def pack(
    cache: Cache,
    size: int,
    *,
    targets: str | Sequence[str] | None = None,
    ids: Any = None,
    split_long: bool = True,
) -> PackedDataset:
    """Pack the samples of a causal_lm target into rows of at most `size` tokens, as few as possible.

    A sample is put where it fits most closely, the longest first (best fit decreasing). The tokens come from the cache,
    so they are those that the teacher saw. Load the result with `collate_fn=softcache.collate_packs`; with
    `batch_size=n`, n packs follow each other in one row.

    Args:
        cache: an open cache.
        size: the most tokens in a row.
        targets: causal_lm targets of the same tokens, by default all of the cache's.
        ids: the samples to take, by default all that the first target covers. Those without an answer, and with fewer
            than 2 tokens, are left out: nothing is learned from them.
        split_long: whether samples of more than `size` tokens are cut into spans; otherwise they are an error. What
            comes later in a sample then sees less of what is before it than the teacher saw.

    Raises TaskError if a target is not causal_lm, for a size below 2, and for long samples that are not to be cut.

    Examples:
        >>> data = softcache.pack(softcache.open("runs/lm"), 64)
        >>> all(int(pack.lengths.sum()) <= 64 for pack in data.packs)
        True
        >>> loader = torch.utils.data.DataLoader(data, batch_size=2, collate_fn=softcache.collate_packs)
        >>> batch = next(iter(loader))
        >>> logits = torch.zeros(batch["input_ids"].shape[1], 300)  # student(**inputs, use_cache=False).logits[0]
        >>> loss = softcache.distillation_loss(logits, batch["soft"]["next"], temperature=2.0)
    """
    chosen = _language_targets(cache, targets)
    if type(size) is not int or size < 2:
        raise TaskError(f"size is {size!r}; expected a number of tokens, at least 2")
    first = chosen[0]
    wanted = first.covered_keys().ids if ids is None else ids_to_numpy(id_array(ids))
    lengths = first.lengths(wanted)
    if not split_long and (lengths > size).any():
        raise TaskError(
            f"{int((lengths > size).sum()):,} samples have more than {size:,} tokens, the longest {lengths.max():,}; "
            "give a larger size, or split_long=True to cut them"
        )
    spans = _spans(lengths, size)
    packs = [spans[:, rows] for rows in best_fit(spans[2], size)]
    return PackedDataset([Pack(wanted[rows], starts, counts) for rows, starts, counts in packs], chosen)


def _language_targets(cache: Cache, targets: str | Sequence[str] | None) -> list[Target]:
    names = [targets] if isinstance(targets, str) else targets
    if names is None:
        names = [name for name, target in cache.items() if target.task.traits.has_tokens]
    found = [cache[name] for name in names]
    wrong = [target.name for target in found if not target.task.traits.has_tokens]
    if wrong or not found:
        raise TaskError(f"packing needs causal_lm targets; {', '.join(wrong) or 'the cache'} has no tokens")
    return found


def _spans(lengths: Array, size: int) -> Array:
    """Return samples as spans of at most `size` tokens: sample, start and length of each, int64 [3, n].

    A span of one token is left out: no answer depends on it alone but that for the token after it.
    """
    pieces = -(-lengths // size)
    sample = np.repeat(np.arange(len(lengths)), pieces)
    start = size * (np.arange(len(sample)) - np.repeat(np.cumsum(pieces) - pieces, pieces))
    found = np.stack([sample, start, np.minimum(lengths[sample] - start, size)])
    return found[:, found[2] > 1]


def best_fit(lengths: Array, size: int) -> list[Array]:
    """Return which items share a row of at most `size`, int64 [n] for each row: best fit decreasing."""
    order = np.argsort(-lengths, kind="stable")
    rows: list[list[int]] = []
    # Rows by the room that is left in them: there are no more sizes than `size`, however many rows.
    by_room: list[list[int]] = [[] for _ in range(size + 1)]
    roomy = np.zeros(size + 1, np.bool_)
    for item in order.tolist():
        length = int(lengths[item])
        room = length + int(roomy[length:].argmax())
        if roomy[room]:
            row = by_room[room].pop()
            roomy[room] = bool(by_room[room])
            rows[row].append(item)
        else:
            row, room = len(rows), size
            rows.append([item])
        by_room[room - length].append(row)
        roomy[room - length] = True
    return [np.array(row) for row in rows]


def collate_packs(batch: Any) -> dict[str, Any]:
    """Return packs as one row of N tokens, without padding, as attention that reads position ids wants them.

    The keys of the result: `input_ids` int64 [1, N]; `position_ids` int64 [1, N], which start again at 0 in each span;
    `labels` int64 [1, N], a token's label being the token itself, as models of transformers expect it, or -100 where
    the answer before it is not stored; `shift_labels` int64 [1, N], the token after each one, in place of which -100;
    and `soft`, whose `lengths` are those of the spans. A student's logits [1, N, V] go to the loss as `logits[0]`.

    Give `position_ids` and `use_cache=False` to models of transformers: with a cache, which many use by default, they
    do not look for packed samples, and these see each other.

    Raises TaskError for a pack in place of a batch.

    Examples:
        >>> data = softcache.pack(softcache.open("runs/lm"), 64)
        >>> batch = softcache.collate_packs([data[0], data[1]])
        >>> batch["input_ids"].shape == batch["position_ids"].shape == batch["labels"].shape
        True
    """
    if isinstance(batch, Mapping):
        raise TaskError("this is one pack, not a list of packs; give the DataLoader a batch_size")
    if not isinstance(batch, PackedBatch):
        return _joined(batch)
    ids = np.concatenate([pack.ids for pack in batch.packs])
    starts, lengths = (np.concatenate([p[part] for p in batch.packs]) for part in (1, 2))
    softs = {target.name: target.lookup_spans(ids.tolist(), starts, lengths) for target in batch.targets}
    return _flat(SoftBatch(softs))


def _joined(batches: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return batches of one pack as one batch."""
    return _flat(SoftBatch.concatenate([batch[SOFT] for batch in batches]))


def _flat(soft: SoftBatch) -> dict[str, Any]:
    first = next(iter(soft.values()))
    assert isinstance(first, SoftSequences)
    tokens, lengths = first.tokens[:, :-1].long(), first.lengths
    there = torch.arange(tokens.shape[1]) < lengths[:, None]
    after = torch.full_like(tokens, NO_TOKEN)
    for one in soft.values():
        assert isinstance(one, SoftSequences)
        one.check_input_ids(tokens)
        after = torch.maximum(after, one.next_tokens())
    # In the labels' own place: the label of a token is stored with the position before it.
    labels = torch.nn.functional.pad(after[:, :-1], (1, 0), value=NO_TOKEN)
    places = torch.arange(tokens.shape[1]).expand_as(tokens)
    flat = {"input_ids": tokens, "position_ids": places, "labels": labels, "shift_labels": after}
    return {name: values[there][None] for name, values in flat.items()} | {SOFT: soft}
