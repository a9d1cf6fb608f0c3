"""`softcache.attach`: a torch Dataset of samples with soft targets, for DataLoaders and their workers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Dataset, default_collate

from softcache.arrays import Array
from softcache.errors import AlignmentError, TaskError
from softcache.loaders.ids import unique_ids
from softcache.loaders.targets import SOFT, Fields, readables, with_soft
from softcache.read.cache import Cache
from softcache.soft.batch import SoftBatch
from softcache.soft.keys import ids_to_numpy
from softcache.soft.readable import Readable


class Attached(Sequence[Any]):
    """Some samples of a dataset and the soft targets of one lookup, before collation.

    As a sequence it gives each sample with its own soft targets, as any collate function expects them;
    `softcache.collate` takes the soft targets as they are.
    """

    def __init__(self, samples: Sequence[Any], soft: SoftBatch) -> None:
        self.samples, self.soft = samples, soft

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return Attached(self.samples[i], self.soft[i])
        sample, soft = self.samples[i], SampleSoft(self.soft[slice(i, i + 1 or None)])
        return Fields(with_soft(sample, soft)) if isinstance(sample, Mapping) else with_soft(sample, soft)


class SampleSoft(SoftBatch):
    """The soft targets of one sample.

    They have no length, which is what functions that make tensors of samples ask for first: so their users learn what
    to do instead.
    """

    def __len__(self) -> int:
        raise TypeError(
            "soft targets do not become a tensor; give the DataLoader or Trainer collate_fn=softcache.collate"
        )

    def __bool__(self) -> bool:
        return True


class AttachedDataset(Dataset[Any]):
    """A dataset whose samples come with soft targets. Made by `softcache.attach`."""

    def __init__(self, dataset: Any, targets: Mapping[str, Readable], ids: Array) -> None:
        self._dataset, self._targets, self._ids = dataset, dict(targets), ids

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, position: int | slice) -> Any:
        """Return a sample with its soft targets, which are a batch of one row: a dict with `soft`, or a pair.

        A slice gives several, as `__getitems__` does.
        """
        if isinstance(position, slice):
            return self.__getitems__(range(*position.indices(len(self))))
        return with_soft(self._dataset[position], SampleSoft(self._soft([position])))

    def __getitems__(self, positions: Sequence[int]) -> Attached:
        """Return samples and the soft targets of one lookup; `softcache.collate` makes a batch of them."""
        return Attached(samples_at(self._dataset, positions), self._soft(positions))

    def _soft(self, positions: Sequence[int]) -> SoftBatch:
        ids = self._ids[np.asarray(positions, np.int64)].tolist()
        return SoftBatch({name: target.lookup(ids, mask_uncovered=True) for name, target in self._targets.items()})


def samples_at(dataset: Any, positions: Sequence[int]) -> Sequence[Any]:
    """Return some of a dataset's samples: in one call, if it can."""
    batched = getattr(dataset, "__getitems__", None)
    return batched(list(positions)) if callable(batched) else [dataset[i] for i in positions]


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
        dataset: anything with `__len__` and `__getitem__`. For a streaming dataset use `join`.
        cache: an open cache.
        id: as for `sample_ids`: by default as the recipe of the cache names samples.
        targets: names, ensembles or specialists, by default every target.
        ids: the sample ids [len(dataset)], in order, in place of `id`, so that no sample is decoded here.

    The join of all samples is checked now. Samples that a target does not cover become rows without an answer (`mask`
    is False).

    Raises:
        AlignmentError: ids are missing or occur twice; a target covers no sample; or samples have changed since the
            build (checked if `dataset` is a `datasets.Dataset` with the columns that the teachers read, and wherever
            ids are positions).

    Examples:
        >>> cache = softcache.open("runs/digits")
        >>> samples = [{"id": i, "image": torch.zeros(8, 8)} for i in range(4)]
        >>> data = softcache.attach(samples, cache, id="id", targets=["digit@a"])
        >>> loader = torch.utils.data.DataLoader(data, batch_size=4, collate_fn=softcache.collate)
        >>> batch = next(iter(loader))
        >>> batch["image"].shape, batch["soft"]["digit@a"].ids
        (torch.Size([4, 8, 8]), array([0, 1, 2, 3]))
    """
    found = unique_ids(dataset, cache, id, ids)
    chosen = readables(cache, targets)
    for target in chosen.values():
        target.check(found)
    return AttachedDataset(dataset, chosen, ids_to_numpy(found))


def collate(batch: Attached | Sequence[Any], *, samples: Callable[[list[Any]], Any] = default_collate) -> Any:
    """Collate samples with soft targets: a dict batch with `soft`, or `(batch, soft)`.

    `samples` collates the samples themselves. To replace torch's default pass
    `functools.partial(softcache.collate, samples=...)` to the DataLoader. Samples without soft targets, as those of an
    evaluation set, are collated alone.

    Raises AlignmentError if only some of the samples have soft targets, TaskError for a sample in place of a batch.

    Examples:
        >>> data = softcache.attach([{"id": 5}, {"id": 6}], softcache.open("runs/digits"), id="id")
        >>> softcache.collate([data[1], data[0]])["soft"]["digit@a"].ids
        array([6, 5])
        >>> softcache.collate([{"id": 5}, {"id": 6}])
        {'id': tensor([5, 6])}
    """
    if isinstance(batch, Mapping) or _has_soft(batch):
        raise TaskError("this is one sample, not a batch of samples; give the DataLoader a batch_size")
    if isinstance(batch, Attached):
        return with_soft(samples(list(batch.samples)), batch.soft)
    have = [_has_soft(item) for item in batch]
    if not any(have):
        return samples(list(batch))
    if not all(have):
        raise AlignmentError(f"{have.count(False)} of {len(have)} samples have no soft targets; attach all, or none")
    if isinstance(batch[0], Mapping):
        plain, parts = [{k: v for k, v in b.items() if k != SOFT} for b in batch], [b[SOFT] for b in batch]
    else:
        plain, parts = [b[0] for b in batch], [b[1] for b in batch]
    return with_soft(samples(plain), SoftBatch.concatenate(parts))


def _has_soft(item: Any) -> bool:
    if isinstance(item, Mapping):
        return isinstance(item.get(SOFT), SoftBatch)
    return isinstance(item, tuple) and len(item) == 2 and isinstance(item[1], SoftBatch)
