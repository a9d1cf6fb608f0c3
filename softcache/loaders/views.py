"""The student's side of augmented caches: views that are made again and proved to be those that teachers saw."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import Dataset

from softcache.errors import AlignmentError, AugmentationError, SoftcacheError, TaskError, name_some
from softcache.loaders.attach import Attached, content_hashes, unique_ids
from softcache.loaders.join import readables, with_soft
from softcache.read.cache import Cache
from softcache.soft.batch import SoftBatch
from softcache.soft.keys import ids_to_numpy
from softcache.soft.readable import Readable
from softcache.transfer.augmentation import PARTNER, Augmentation, Parameters, kept_generators
from softcache.transfer.libraries import versions_here
from softcache.transfer.positions import Positions
from softcache.transfer.view_checks import NO_VIEW, agrees, described

CHECKS = ("always", "sampled", "off")
ALL_OF_THE_FIRST, ONE_IN = 64, 16
_OWN: Any = object()


class ViewDataset(Dataset[Any]):
    """A dataset of views with soft targets. Made by `softcache.views`.

    It has one view of each sample: in epoch e view e modulo the number of views. `set_epoch` before each epoch, also
    with persistent workers; to resume in the middle of one, set it and take up the sampler where it was.

    Examples:
        >>> import numpy as np
        >>> from sklearn.datasets import load_digits
        >>> def shift(image, rng):  # the transform of the build
        ...     top, left = rng.integers(3, size=2)
        ...     return np.pad(image, 1)[top : top + 8, left : left + 8].copy()
        >>> samples = [{"id": i, "image": image.astype(np.uint8)} for i, image in enumerate(load_digits().images)]
        >>> cache = softcache.open("runs/views")
        >>> data = softcache.views(samples, cache, shift, id="id", targets=["digit@a"])
        >>> data.set_epoch(4)  # of 3 views
        >>> data.view, data[0]["soft"]["digit@a"].views
        (1, array([1], dtype=int32))
    """

    def __init__(
        self,
        dataset: Any,
        cache: Cache,
        targets: Mapping[str, Readable],
        ids: pa.Array,
        augmentation: Augmentation,
        views: int,
        then: Callable[[Any], Any] | None,
        check: str,
    ) -> None:
        self._dataset, self._cache, self._targets = dataset, cache, dict(targets)
        self._ids, self._augmentation, self._views = ids_to_numpy(ids), augmentation, views
        self._then, self._check = then, check
        self._partners = Positions(ids) if augmentation.mixes else None
        self._epoch = torch.zeros(1, dtype=torch.int64).share_memory_()  # type: ignore[no-untyped-call]
        self._seen = 0
        self._recorded: list[dict[str, str]] = (
            [] if cache.commit.augmentation is None else cache.commit.augmentation["versions"]
        )
        self._here = versions_here(dict(pair for one in self._recorded for pair in one.items()))
        # Which of the versions made a view is not recorded: it is compared exactly where all are those that are here.
        self._is_exact = all(one.items() <= self._here.items() for one in self._recorded)

    def set_epoch(self, epoch: int) -> None:
        """Let the dataset, in workers too, have the views of an epoch, from 0. Raises TaskError for anything else."""
        if type(epoch) is not int or not 0 <= epoch < 2**63:
            raise TaskError(f"epoch is {epoch!r}; expected an integer from 0")
        self._epoch[0] = epoch

    @property
    def view(self) -> int:
        """The view that the samples are in."""
        return int(self._epoch) % self._views

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, position: int) -> Any:
        """Return one view with its soft targets, a batch of one row: a dict with `soft`, or a pair."""
        made = self.__getitems__([position])
        return with_soft(made.samples[0], made.soft)

    def __getitems__(self, positions: Sequence[int]) -> Attached:
        """Return views and one lookup's soft targets; `softcache.collate` makes them a batch.

        Raises AlignmentError for a view that is not the one that the teachers saw.
        """
        view, ids = self.view, self._ids[np.asarray(positions)].tolist()
        batched = getattr(self._dataset, "__getitems__", None)
        samples = batched(list(positions)) if callable(batched) else [self._dataset[i] for i in positions]
        rows = self._cache.find(ids, view)
        checks = [check.tobytes() for check in self._cache.checks(rows)]
        drawn = (self._cache.parameters(rows) if self._augmentation.draws else None) or [None] * len(ids)
        with kept_generators():
            made = [
                self._make(sample, sample_id, view, parameters, check)
                for sample, sample_id, parameters, check in zip(samples, ids, drawn, checks, strict=True)
            ]
        for one, sample_id, position, check in zip(made, ids, positions, checks, strict=True):
            if check != NO_VIEW and self._is_checked(int(position), view):
                self._compare(one, sample_id, view, check)
        soft = SoftBatch({name: t.lookup(ids, view, mask_uncovered=True) for name, t in self._targets.items()})
        unseen = [row for row, check in enumerate(checks) if check == NO_VIEW]
        if unseen:
            self._check_unanswered(soft, unseen, [ids[row] for row in unseen])
        return Attached([self._finish(s, m) for s, m in zip(samples, made, strict=True)], soft)

    def _make(self, sample: Any, sample_id: Any, view: int, parameters: Parameters | None, check: bytes) -> Any:
        """Make a view; one that the build could not make is the sample as it is, and has no answer."""
        if check == NO_VIEW:
            return self._augmentation.value(sample)
        if self._augmentation.draws and parameters is None:
            raise AlignmentError(
                f"sample {sample_id!r}, view {view}: no parameters of it are stored: the build's transform was another"
            )
        partner = None if self._partners is None else self._partner(self._partners, (parameters or {}).get(PARTNER))
        try:
            return self._augmentation.view(sample, sample_id, view, parameters, partner)
        except Exception as e:
            raise AlignmentError(
                f"sample {sample_id!r}, view {view}: the transform raised {type(e).__name__}: {e}"
            ) from e

    def _partner(self, positions: Positions, sample_id: Any) -> Any:
        position = positions.find(sample_id)
        if position is None:
            raise AlignmentError(f"sample {sample_id!r} is mixed into a view, and is not in the dataset")
        return self._dataset[position]

    def _compare(self, made: Any, sample_id: Any, view: int, check: bytes) -> None:
        named = f"sample {sample_id!r}, view {view}"
        try:
            if agrees(made, check, exact=self._is_exact):
                return
            what = described(made)
        except AugmentationError as e:
            raise AlignmentError(f"{named}: not the view that the teachers saw: {e}") from e
        had = " or ".join(map(str, self._recorded))
        raise AlignmentError(
            f"{named}: not the view that the teachers saw, but {what}. The student's transform, or what the dataset "
            f"gives it (values, dtype, shape), is not that of the build, which had {had}; here: {self._here}"
        )

    def _check_unanswered(self, soft: SoftBatch, rows: list[int], ids: list[Any]) -> None:
        """Raise AlignmentError where there are answers to views that are not recorded: what they are of is unknown."""
        for name, targets in soft.items():
            has_answer = targets.answered[rows].tolist()
            if answered := [sample_id for sample_id, has in zip(ids, has_answer, strict=True) if has]:
                raise AlignmentError(
                    f"samples {name_some(answered)}, view {self.view}: {name} has answers, and no view is recorded "
                    "that they are of; build this cache again"
                )

    def _is_checked(self, position: int, view: int) -> bool:
        """Whether a view is compared: where they are sampled, the first of a process and then one in 16."""
        if self._check != "sampled":
            return self._check == "always"
        self._seen += 1
        return self._seen <= ALL_OF_THE_FIRST or (position * 0x9E3779B1 + view * 0x85EBCA6B >> 13) % ONE_IN == 0

    def _finish(self, sample: Any, made: Any) -> Any:
        """Return a sample with its view in place, as the student takes it."""
        if self._then is None:
            return self._augmentation.place(sample, made)
        if self._augmentation.column is None:
            return self._then(self._augmentation.place(sample, made))
        return self._augmentation.place(sample, self._then(made))


def views(
    dataset: Any,
    cache: Cache,
    transform: Any,
    *,
    id: str | int | None = None,
    ids: Any = None,
    targets: Sequence[str | Readable] | None = None,
    column: str | int | None = _OWN,
    views: int | None = None,
    then: Callable[[Any], Any] | None = None,
    check: str = "sampled",
) -> ViewDataset:
    """Return a torch Dataset of the views that teachers saw, with their soft targets.

    To load with `collate_fn=softcache.collate`, and to be told each epoch (`ViewDataset.set_epoch`). `dataset` has
    `__len__` and `__getitem__`, and gives samples as the build read them; `id`, `ids` and `targets` are as for
    `attach`. `transform` is what the recipe names, ready to use; it gets `column` of a sample, by default the cache's,
    of tuples a position. `views` is how many views to go through, by default all. `then` is what the student does with
    a view, such as normalising: it gets the view, or of whole samples the sample, after the comparison.

    Each view is made again from its seed or its parameters, and compared with the check that the build stored: every
    one (`check="always"`), the first 64 of each process and one in 16 after that (`sampled`), or none (`off`). With the
    libraries of the build the comparison is exact; with other versions a view may differ by rounding. A sample that the
    build could not augment is given as it is, without an answer (`mask` is False).

    Raises AlignmentError where samples, or views of them, are missing, and while iterating for a view that is not what
    the teachers saw, naming sample, view and libraries; TaskError for a cache that is not augmented.

    Examples:
        >>> import numpy as np
        >>> from sklearn.datasets import load_digits
        >>> def shift(image, rng):  # the transform of the build
        ...     top, left = rng.integers(3, size=2)
        ...     return np.pad(image, 1)[top : top + 8, left : left + 8].copy()
        >>> samples = [{"id": i, "image": image.astype(np.uint8)} for i, image in enumerate(load_digits().images)]
        >>> cache = softcache.open("runs/views")
        >>> data = softcache.views(samples, cache, shift, id="id", targets=["digit@a"])
        >>> loader = torch.utils.data.DataLoader(data, batch_size=64, collate_fn=softcache.collate)
        >>> batch = next(iter(loader))
        >>> batch["image"].shape, batch["soft"]["digit@a"].probs(temperature=4.0).shape
        (torch.Size([64, 8, 8]), torch.Size([64, 10]))
    """
    declared = cache.commit.augmentation
    if declared is None:
        raise TaskError(f"{cache.url} is not augmented: teachers saw its samples as they are; use softcache.attach")
    if check not in CHECKS:
        raise SoftcacheError(f"check is {check!r}; expected one of {', '.join(CHECKS)}")
    count = cache.commit.views if views is None else views
    if type(count) is not int or not 1 <= count <= cache.commit.views:
        raise TaskError(f"views is {count!r}; the cache has {cache.commit.views}")
    described = declared["declaration"]
    augmentation = Augmentation(
        transform, seed=described["seed"], column=described["column"] if column is _OWN else column
    )
    found = unique_ids(dataset, id, ids)
    for view in {0, count - 1}:
        cache.find(found, view)
    chosen = readables(cache, targets)
    for target in chosen.values():
        target.check(found, 0)
    hashes = content_hashes(dataset, cache)
    if hashes is not None:
        cache.check_contents(found, hashes, 0)
    return ViewDataset(dataset, cache, chosen, found, augmentation, count, then, check)
