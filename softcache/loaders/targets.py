"""Which targets a loader looks up, and how a batch gets its soft targets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any

from softcache.errors import AlignmentError, TaskError
from softcache.read.cache import Cache
from softcache.soft.batch import SoftBatch
from softcache.soft.members import listed
from softcache.soft.protocol import Soft
from softcache.soft.readable import Readable

SOFT = "soft"


@dataclass(frozen=True, eq=False)
class Lookup:
    """Looks up the soft targets of a batch by the ids that it has.

    Attributes:
        targets: the targets by name.
        id: where a batch has its sample ids: a key of dict batches, a position of tuple batches.
        view: where it has its view numbers; None if there is one view.
        input_ids: where it has its token ids, to be compared with those that teachers saw; or None.
    """

    targets: Mapping[str, Readable]
    id: str | int
    _: KW_ONLY
    view: str | int | None = None
    input_ids: str | int | None = None

    def soft_of(self, batch: Any) -> SoftBatch:
        """Return the soft targets of a batch. Raises AlignmentError for ids that the cache lacks, and other tokens."""
        ids = field_of(batch, self.id)
        views = None if self.view is None else field_of(batch, self.view)
        tokens = None
        if self.input_ids is not None and any(t.task.traits.has_tokens for t in self.targets.values()):
            tokens = field_of(batch, self.input_ids)
        found: dict[str, Soft] = {}
        for name, target in self.targets.items():
            input_ids = tokens if target.task.traits.has_tokens else None
            found[name] = target.lookup(ids, views, input_ids=input_ids, mask_uncovered=True)
        return SoftBatch(found)

    def with_soft(self, batch: Any) -> Any:
        """Return a batch with its soft targets."""
        return with_soft(batch, self.soft_of(batch))


class Fields(Mapping[str, Any]):
    """A sample's fields, with `soft`. It is no dict, so that trainers that drop columns from dicts leave it whole."""

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self._fields = fields

    def __getitem__(self, name: str) -> Any:
        return self._fields[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._fields)

    def __len__(self) -> int:
        return len(self._fields)


def readables(cache: Cache, targets: Sequence[str | Readable] | str | None) -> dict[str, Readable]:
    """Return targets by name: the given ones, or all.

    Raises UnknownTarget, and TaskError for what is not a target, for none at all, and for two of the same name.
    """
    require_cache(cache)
    given = cache.targets if targets is None else listed([targets] if isinstance(targets, str) else targets)
    chosen: dict[str, Readable] = {}
    for one in given:
        target = cache[one] if isinstance(one, str) else one
        if not hasattr(target, "lookup"):
            raise TaskError(f"{target!r} is not a target; give names, or cache[name]")
        if target.name in chosen and target is not chosen[target.name]:
            raise TaskError(f"two of the targets are called {target.name}, and a batch has one of each name")
        chosen[target.name] = target
    if not chosen:
        raise TaskError("targets is empty; name at least one, or leave it out for every target of the cache")
    return chosen


def require_cache(cache: Any) -> None:
    """Raise TaskError for anything but an open cache."""
    if not isinstance(cache, Cache):
        raise TaskError(f"{cache!r:.100} is not an open cache; give softcache.open(...)")


def field_of(batch: Any, key: str | int) -> Any:
    """Return a field of a batch. Raises AlignmentError if it has no such field."""
    try:
        return batch[key]
    except (KeyError, IndexError, TypeError) as e:
        what = f"keys {', '.join(map(str, batch))}" if isinstance(batch, Mapping) else f"a {type(batch).__name__}"
        raise AlignmentError(f"the loader's batches have no field {key!r}; they are {what}") from e


def with_soft(batch: Any, soft: SoftBatch) -> Any:
    """Return a batch with its soft targets: a dict gains the key `soft`, anything else becomes a pair."""
    if isinstance(batch, Mapping):
        if SOFT in batch:
            raise AlignmentError(
                "the batch has a field 'soft' of its own; rename it, since the soft targets get that name"
            )
        return {**batch, SOFT: soft}
    return batch, soft
