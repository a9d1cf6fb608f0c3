"""`softcache.views`: the views that teachers saw, made again for the student and proved to be the same."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch.utils.data import Dataset

from softcache.errors import AlignmentError, AugmentationError, TaskError, name_some
from softcache.loaders.attach import Attached, SampleSoft, samples_at
from softcache.loaders.ids import unique_ids
from softcache.loaders.targets import readables, with_soft
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

    It has one view of each sample: in epoch e the view e modulo the number of views. Call `set_epoch` before each
    epoch, also with persistent workers. To resume in the middle of an epoch, set the epoch and restore the sampler.

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
        # Nobody recorded which versions made which view: the comparison is exact only if all are the versions here.
        self._is_exact = all(one.items() <= self._here.items() for one in self._recorded)

    def set_epoch(self, epoch: int) -> None:
        """Switch to the views of an epoch (0, 1, ...), also in workers. Raises TaskError for anything else."""
        if type(epoch) is not int or not 0 <= epoch < 2**63:
            raise TaskError(f"epoch is {epoch!r}; expected an integer from 0")
        self._epoch[0] = epoch

    @property
    def view(self) -> int:
        """The number of the view that the dataset gives now."""
        return int(self._epoch) % self._views

    def __len__(self) -> int:
        return len(self._ids)

    def __getitem__(self, position: int | slice) -> Any:
        """Return a view with its soft targets, which are a batch of one row: a dict with `soft`, or a pair.

        A slice gives several, as `__getitems__` does.
        """
        if isinstance(position, slice):
            return self.__getitems__(range(*position.indices(len(self))))
        made = self.__getitems__([position])
        return with_soft(made.samples[0], SampleSoft(made.soft))

    def __getitems__(self, positions: Sequence[int]) -> Attached:
        """Return views and the soft targets of one lookup; `softcache.collate` makes a batch of them.

        Raises AlignmentError for a view that the teachers did not see.
        """
        view, ids = self.view, self._ids[np.asarray(positions, np.int64)].tolist()
        samples = samples_at(self._dataset, positions)
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
        """Make a view. If the build could not make it, return the sample as it is: it has no answer."""
        if check == NO_VIEW:
            return self._augmentation.value(sample)
        if self._augmentation.draws and parameters is None:
            raise AlignmentError(
                f"sample {sample_id!r}, view {view}: the build stored no parameters for it: its transform drew none"
            )
        partner = None if self._partners is None else self._partner(self._partners, (parameters or {}).get(PARTNER))
        try:
            return self._augmentation.view(sample, sample_id, view, parameters, partner)
        except AugmentationError as e:
            raise AlignmentError(f"sample {sample_id!r}, view {view}: {e}") from e
        except Exception as e:
            raise AlignmentError(
                f"sample {sample_id!r}, view {view}: the transform raised {type(e).__name__}: {e}"
            ) from e

    def _partner(self, positions: Positions, sample_id: Any) -> Any:
        position = positions.find(sample_id)
        if position is None:
            raise AlignmentError(f"sample {sample_id!r} is mixed into a view, but is not in the dataset")
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
        """Raise AlignmentError if views that are not recorded have answers: nobody knows which views these answer."""
        for name, targets in soft.items():
            has_answer = targets.answered[rows].tolist()
            if answered := [sample_id for sample_id, has in zip(ids, has_answer, strict=True) if has]:
                raise AlignmentError(
                    f"samples {name_some(answered)}, view {self.view}: {name} has answers, and no view is recorded "
                    "for them; build this cache again"
                )

    def _is_checked(self, position: int, view: int) -> bool:
        """Whether a view is compared: with `sampled` the first 64 of a process, then one in 16."""
        if self._check != "sampled":
            return self._check == "always"
        self._seen += 1
        return self._seen <= ALL_OF_THE_FIRST or (position * 0x9E3779B1 + view * 0x85EBCA6B >> 13) % ONE_IN == 0

    def _finish(self, sample: Any, made: Any) -> Any:
        """Return a sample with its view, as the student gets it."""
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

    Load it with `collate_fn=softcache.collate`, and call `ViewDataset.set_epoch` before each epoch.

    Args:
        dataset: anything with `__len__` and `__getitem__` that gives samples as the build read them.
        cache: an open cache that was built with augmentation.
        transform: the transform that the recipe names, ready to use.
        id: as for `attach`.
        ids: as for `attach`.
        targets: as for `attach`.
        column: the part of a sample that the transform gets, by default the cache's; a position for tuple samples.
        views: how many views to go through, by default all.
        then: what the student does with a view after the comparison, such as normalising. It gets the view, or the
            sample if whole samples are augmented.
        check: which views are compared with the check that the build stored: `always` all of them, `sampled` the first
            64 of each process and then one in 16, `off` none.

    Each view is made again from its seed or its parameters. With the build's libraries the comparison is exact; with
    other versions a view may differ by rounding. A sample that the build could not augment comes as it is, without an
    answer (`mask` is False).

    Raises AlignmentError if samples or their views are missing, and while iterating for a view that the teachers did
    not see, naming sample, view and libraries; TaskError for a cache that is not augmented.

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
        raise TaskError(f"{cache.url} is not augmented: its teachers saw the samples as they are; use softcache.attach")
    if check not in CHECKS:
        raise TaskError(f"check is {check!r}; expected one of {', '.join(CHECKS)}")
    count = cache.commit.views if views is None else views
    if type(count) is not int or not 1 <= count <= cache.commit.views:
        raise TaskError(f"views is {count!r}; the cache has {cache.commit.views}")
    described = declared["declaration"]
    augmentation = Augmentation(
        transform, seed=described["seed"], column=described["column"] if column is _OWN else column
    )
    found = unique_ids(dataset, cache, id, ids)
    for view in {0, count - 1}:
        cache.find(found, view)
    chosen = readables(cache, targets)
    for target in chosen.values():
        target.check(found, 0)
    return ViewDataset(dataset, cache, chosen, found, augmentation, count, then, check)
