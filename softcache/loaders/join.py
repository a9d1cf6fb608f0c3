"""`softcache.join`: soft targets beside any loader's batches, looked up in the training process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from softcache.errors import AlignmentError
from softcache.read.cache import Cache
from softcache.soft.batch import SoftBatch
from softcache.soft.protocol import Soft
from softcache.soft.readable import Readable


class Join:
    """A loader's batches with soft targets. Made by `softcache.join`. Its length is the loader's."""

    def __init__(
        self,
        loader: Iterable[Any],
        targets: Mapping[str, Readable],
        id: str | int,
        view: str | int | None,
        input_ids: str | int | None,
    ) -> None:
        self._loader, self._targets, self._id, self._view, self._input_ids = loader, targets, id, view, input_ids

    def __iter__(self) -> Iterator[Any]:
        for batch in self._loader:
            yield with_soft(batch, self._soft(batch))

    def _soft(self, batch: Any) -> SoftBatch:
        ids = field_of(batch, self._id)
        views = None if self._view is None else field_of(batch, self._view)
        tokens = None
        if self._input_ids is not None and any(t.task.traits.has_tokens for t in self._targets.values()):
            tokens = field_of(batch, self._input_ids)
        found: dict[str, Soft] = {}
        for name, target in self._targets.items():
            input_ids = tokens if target.task.traits.has_tokens else None
            found[name] = target.lookup(ids, views, input_ids=input_ids, mask_uncovered=True)
        return SoftBatch(found)

    def __len__(self) -> int:
        return len(self._loader)  # type: ignore[arg-type]


def join(
    loader: Iterable[Any],
    cache: Cache,
    *,
    id: str | int,
    targets: Sequence[str | Readable] | None = None,
    view: str | int | None = None,
    input_ids: str | int | None = None,
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

    A dict batch gets the key `soft`; any other batch becomes `(batch, soft)`. `soft` is a SoftBatch, where ensembles
    and specialists are found by their own `.name`. Samples that a target does not cover become rows without an answer
    (`mask` is False).

    Raises TaskError for unknown targets, and while iterating AlignmentError for ids that the cache lacks and for tokens
    that differ.

    Examples:
        >>> cache = softcache.open("runs/digits")
        >>> data = torch.utils.data.TensorDataset(torch.arange(4), torch.zeros(4, 64))
        >>> loader = torch.utils.data.DataLoader(data, batch_size=2, shuffle=True)
        >>> for (ids, images), soft in softcache.join(loader, cache, id=0, targets=["digit@a"]):
        ...     assert soft["digit@a"].ids.tolist() == ids.tolist()
    """
    return Join(loader, readables(cache, targets), id, view, input_ids)


def readables(cache: Cache, targets: Sequence[str | Readable] | None) -> dict[str, Readable]:
    """Return targets by name: the given ones, or all. Raises TaskError for unknown ones."""
    if isinstance(targets, str):
        targets = [targets]
    chosen: list[Readable] = [
        cache[t] if isinstance(t, str) else t for t in (cache.targets if targets is None else targets)
    ]
    return {t.name: t for t in chosen}


def field_of(batch: Any, key: str | int) -> Any:
    """Return a field of a batch or a sample. Raises AlignmentError if it has no such field."""
    try:
        return batch[key]
    except (KeyError, IndexError, TypeError) as e:
        what = f"keys {', '.join(map(str, batch))}" if isinstance(batch, Mapping) else f"a {type(batch).__name__}"
        raise AlignmentError(f"the loader's batches have no field {key!r} for the ids; they are {what}") from e


def with_soft(batch: Any, soft: SoftBatch) -> Any:
    """Return a batch with its soft targets: a dict gains the key `soft`, anything else becomes a pair."""
    if isinstance(batch, Mapping):
        if "soft" in batch:
            raise AlignmentError(
                "the batch has a field 'soft' of its own; rename it, since the soft targets get that name"
            )
        return {**batch, "soft": soft}
    return batch, soft
