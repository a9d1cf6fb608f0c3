"""`softcache.attach`: a torch Dataset of samples with soft targets, for DataLoaders and their workers."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from torch.utils.data import Dataset, default_collate

from softcache.arrays import Array
from softcache.errors import AlignmentError, SoftcacheError, counted, name_some
from softcache.loaders.join import field_of, readables, with_soft
from softcache.read.cache import Cache
from softcache.soft.batch import SoftBatch
from softcache.soft.keys import ids_to_numpy
from softcache.soft.readable import Readable
from softcache.store.keys import duplicates, id_array
from softcache.transfer import from_object
from softcache.transfer.content import hash_rows


@dataclass(frozen=True)
class Attached:
    """Some samples of a dataset and their soft targets, before collation."""

    samples: list[Any]
    soft: SoftBatch


class AttachedDataset(Dataset[Any]):
    """A dataset whose samples come with soft targets. Made by `softcache.attach`."""

    def __init__(self, dataset: Any, targets: Mapping[str, Readable], ids: Array) -> None:
        self._dataset, self._targets, self._ids = dataset, dict(targets), ids

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, position: int) -> Any:
        """Return a sample with its soft targets, which are a batch of one row: a dict with `soft`, or a pair."""
        return with_soft(self._dataset[position], self._soft([position]))

    def __getitems__(self, positions: Sequence[int]) -> Attached:
        """Return samples and the soft targets of one lookup; `softcache.collate` makes a batch of them."""
        batched = getattr(self._dataset, "__getitems__", None)
        samples = batched(list(positions)) if callable(batched) else [self._dataset[i] for i in positions]
        return Attached(samples, self._soft(positions))

    def _soft(self, positions: Sequence[int]) -> SoftBatch:
        ids = self._ids[np.asarray(positions)].tolist()
        return SoftBatch({name: target.lookup(ids, mask_uncovered=True) for name, target in self._targets.items()})


def attach(
    dataset: Any,
    cache: Cache,
    *,
    id: str | int | None = None,
    targets: Sequence[str | Readable] | None = None,
    ids: Any = None,
) -> AttachedDataset:
    """Return a torch Dataset of a dataset's samples with soft targets. Load it with `collate_fn=softcache.collate`.

    Args:
        dataset: anything with `__len__` and `__getitem__`.
        cache: an open cache.
        id: the key or position of the sample id in a sample.
        targets: names, ensembles or specialists, by default every target.
        ids: the sample ids [len(dataset)], in order, in place of `id`, so that no sample is decoded here.

    The join of all samples is checked now. Samples that a target does not cover become rows without an answer (`mask`
    is False).

    Raises:
        AlignmentError: ids are missing or occur twice; a target covers no sample; or samples have changed since the
            build (checked if `dataset` is a `datasets.Dataset` with the columns that the teachers read).

    Examples:
        >>> cache = softcache.open("runs/digits")
        >>> samples = [{"id": i, "image": torch.zeros(8, 8)} for i in range(4)]
        >>> data = softcache.attach(samples, cache, id="id", targets=["digit@a"])
        >>> loader = torch.utils.data.DataLoader(data, batch_size=4, collate_fn=softcache.collate)
        >>> batch = next(iter(loader))
        >>> batch["image"].shape, batch["soft"]["digit@a"].ids
        (torch.Size([4, 8, 8]), array([0, 1, 2, 3]))
    """
    found = unique_ids(dataset, id, ids)
    chosen = readables(cache, targets)
    for target in chosen.values():
        target.check(found)
    hashes = content_hashes(dataset, cache)
    if hashes is not None:
        cache.check_contents(found, hashes)
    return AttachedDataset(dataset, chosen, ids_to_numpy(found))


def collate(batch: Attached | Sequence[Any], *, samples: Callable[[list[Any]], Any] = default_collate) -> Any:
    """Collate samples with soft targets: a dict batch with `soft`, or `(batch, soft)`.

    `samples` collates the samples themselves. To replace torch's default pass
    `functools.partial(softcache.collate, samples=...)` to the DataLoader.

    Examples:
        >>> data = softcache.attach([{"id": 5}, {"id": 6}], softcache.open("runs/digits"), id="id")
        >>> softcache.collate([data[1], data[0]])["soft"]["digit@a"].ids
        array([6, 5])
    """
    if isinstance(batch, Attached):
        return with_soft(samples(batch.samples), batch.soft)
    if not batch or not all(_has_soft(item) for item in batch):
        raise SoftcacheError("softcache.collate takes the samples of softcache.attach")
    if isinstance(batch[0], Mapping):
        plain, parts = [{k: v for k, v in b.items() if k != "soft"} for b in batch], [b["soft"] for b in batch]
    else:
        plain, parts = [b[0] for b in batch], [b[1] for b in batch]
    return with_soft(samples(plain), SoftBatch.concatenate(parts))


def _has_soft(item: Any) -> bool:
    if isinstance(item, Mapping):
        return isinstance(item.get("soft"), SoftBatch)
    return isinstance(item, tuple) and len(item) == 2 and isinstance(item[1], SoftBatch)


def unique_ids(dataset: Any, id: str | int | None, ids: Any) -> pa.Array:
    """Return the sample ids of a dataset: `ids`, or from their column, or by reading every sample.

    Raises AlignmentError unless each sample has an id of its own.
    """
    found = id_array(_ids_of(dataset, id) if ids is None else ids)
    if len(found) != len(dataset):
        raise AlignmentError(f"{len(found):,} ids for {len(dataset):,} samples")
    repeated = duplicates(found)
    if repeated:
        raise AlignmentError(
            f"{counted(len(repeated), 'id')} of the dataset occur more than once: {name_some(repeated)}"
        )
    return found


def _ids_of(dataset: Any, id: str | int | None) -> Any:
    if id is None:
        raise AlignmentError("say which sample is which: give id= (the key or position of the sample id) or ids=")
    if id in (getattr(dataset, "column_names", None) or ()):
        return dataset.select_columns([id]).with_format("arrow")[:][id]
    return [_id_of(field_of(dataset[i], id)) for i in range(len(dataset))]


def _id_of(value: Any) -> Any:
    """Return the number or string of an id. Many datasets give it as an array or tensor of one element, [] or [1]."""
    return value.item() if hasattr(value, "item") and math.prod(value.shape) == 1 else value


def content_hashes(dataset: Any, cache: Cache) -> Array | None:
    """Return the content hashes of a `datasets.Dataset` with the content columns; None for any other dataset."""
    columns = cache.commit.transfer_set.get("content")
    names = getattr(dataset, "column_names", None)
    if not hasattr(dataset, "features") or not columns or not set(columns) <= set(names or ()):
        return None
    source = from_object(dataset)
    chunks = np.array_split(np.arange(len(source)), max(1, len(source) // 4096))
    return np.concatenate([hash_rows(source.read(positions, columns), len(positions)) for positions in chunks])
