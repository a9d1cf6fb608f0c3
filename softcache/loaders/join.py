"""`softcache.join`: soft targets beside any loader's batches, looked up in the training process."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils.data import DataLoader, default_collate

from softcache.errors import TaskError
from softcache.loaders.processes import refuse_dispatch, require_shards
from softcache.loaders.targets import Lookup, readables
from softcache.read.cache import Cache
from softcache.soft.readable import Readable

_OWN = frozenset({"_loader", "_lookup", "_sharded"})


class Join:
    """A loader's batches with soft targets. Made by `softcache.join`.

    Everything else is the loader's own: its length, sampler, dataset, `set_epoch`, `state_dict`, and so on; it also
    counts as an instance of the loader's class. Only `collate_fn` is another: it looks the soft targets up too, so that
    they are not lost if a library builds a new loader from this one's attributes, as Accelerate does to shard it or to
    skip batches.
    """

    def __init__(self, loader: Iterable[Any], lookup: Lookup, sharded: bool) -> None:
        vars(self).update(_loader=loader, _lookup=lookup, _sharded=sharded)

    def __iter__(self) -> Iterator[Any]:
        if not self._sharded:
            require_shards(self._loader)
        for batch in self._loader:
            yield self._lookup.with_soft(batch)

    def __len__(self) -> int:
        return len(self._loader)

    @property
    def collate_fn(self) -> Callable[[Any], Any]:
        """Collates samples as the loader does, and adds their soft targets."""
        return JoinCollate(getattr(self._loader, "collate_fn", default_collate), self._lookup)

    @property
    def __class__(self) -> type:
        return type(self._loader) if isinstance(self._loader, DataLoader) else Join

    @__class__.setter
    def __class__(self, given: type) -> None:
        raise TypeError("the class of a join is its loader's")

    def __getattr__(self, name: str) -> Any:
        if name in _OWN:  # not made yet, while unpickling
            raise AttributeError(name)
        if name == "__pl_saved_args":
            raise TaskError(
                "Lightning is about to build this loader anew to shard it or to number its batches, and softcache.join "
                "would be lost: use softcache.LightningMixin, which needs no join"
            )
        return getattr(self._loader, name)

    def __reduce__(self) -> Any:
        return Join, (self._loader, self._lookup, self._sharded)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._loader, name, value)


@dataclass(frozen=True)
class JoinCollate:
    """Collates samples and looks up their soft targets, where the samples are collated. Made by `join_collate`."""

    samples: Callable[[Any], Any]
    lookup: Lookup

    def __call__(self, samples: Any) -> Any:
        refuse_dispatch()
        return self.lookup.with_soft(self.samples(samples))


def join(
    loader: Iterable[Any],
    cache: Cache,
    *,
    id: str | int,
    targets: Sequence[str | Readable] | None = None,
    view: str | int | None = None,
    input_ids: str | int | None = None,
    sharded: bool = False,
) -> Join:
    """Add soft targets to the batches of any loader.

    Args:
        loader: an iterable of batches.
        cache: an open cache.
        id: where a batch has its sample ids: a key of dict batches, a position of tuple batches.
        targets: names, ensembles or specialists, by default every target.
        view: where a batch has its view numbers, for caches with several views.
        input_ids: where a batch has its token ids, [B, L] padded. They are compared with the tokens that the teachers
            of causal_lm targets saw.
        sharded: with several processes, says that the loader gives each of them samples of its own, where that cannot
            be seen.

    A dict batch gets the key `soft`; any other batch becomes `(batch, soft)`. `soft` is a SoftBatch, where ensembles
    and specialists are found by their own `.name`. Samples that a target does not cover become rows without an answer
    (`mask` is False).

    The result stands for the loader: its `sampler`, `dataset`, `set_epoch`, `state_dict` and everything else are the
    loader's. Join around `accelerator.prepare(loader)`, or before: both shard it, and only the first looks soft targets
    up in the training process if there are workers.

    Raises TaskError for unknown targets, and while iterating AlignmentError for ids that the cache lacks and for tokens
    that differ, and TaskError if there are several processes and each would get all samples.

    Examples:
        >>> cache = softcache.open("runs/digits")
        >>> data = torch.utils.data.TensorDataset(torch.arange(4), torch.zeros(4, 64))
        >>> loader = torch.utils.data.DataLoader(data, batch_size=2, shuffle=True)
        >>> for (ids, images), soft in softcache.join(loader, cache, id=0, targets=["digit@a"]):
        ...     assert soft["digit@a"].ids.tolist() == ids.tolist()
    """
    return Join(loader, Lookup(readables(cache, targets), id, view=view, input_ids=input_ids), sharded)


def join_collate(
    cache: Cache,
    *,
    id: str | int,
    targets: Sequence[str | Readable] | None = None,
    view: str | int | None = None,
    input_ids: str | int | None = None,
    samples: Callable[[Any], Any] = default_collate,
) -> JoinCollate:
    """Return a collate function that looks up soft targets, for trainers that make the loader of a streaming dataset.

    The arguments are those of `join`; `samples` collates the samples. Prefer `join` where you have the loader, and
    `attach` where samples have positions: it checks all of them first.

    Examples:
        >>> collate = softcache.join_collate(softcache.open("runs/digits"), id="id", targets=["digit@a"])
        >>> collate([{"id": 3}, {"id": 1}])["soft"]["digit@a"].ids
        array([3, 1])
    """
    return JoinCollate(samples, Lookup(readables(cache, targets), id, view=view, input_ids=input_ids))
