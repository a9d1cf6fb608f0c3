"""The sample ids of a student's dataset, and whether its samples are those that the teachers saw."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from torch.utils.data import IterableDataset

from softcache.arrays import Array
from softcache.errors import AlignmentError, TransferSetError, counted, name_some
from softcache.loaders.targets import require_cache
from softcache.read.cache import Cache
from softcache.soft.keys import ids_to_numpy
from softcache.store.keys import duplicates, id_array
from softcache.transfer import BY_POSITION, CONTENT_HASH, from_object
from softcache.transfer.content import hash_rows
from softcache.transfer.sources import from_samples
from softcache.transfer.transfer_set import hash_ids

_CHUNK = 4096
_TABLES = ("arrow", "pandas", "polars")  # formats of datasets whose rows are not dicts


def sample_ids(dataset: Any, cache: Cache, id: str | int | None = None) -> Array:
    """Return the id of each sample of a dataset, in order: int64 or objects (str) [n].

    Args:
        dataset: anything with `__len__` and `__getitem__`.
        cache: an open cache.
        id: the key or position of the sample id in a sample; `content-hash`, for the hash of the columns that the
            teachers read; or `by-position`, for positions in the dataset. By default as the recipe of the cache says.

    To join a cache by content hashes, put these ids into the dataset. Content hashes depend on the exact types and
    bytes: of images, for instance, on those of the files. So give a `datasets.Dataset` of the source of the build, or
    samples that are dicts of the same arrays.

    Raises AlignmentError if an id is missing or occurs twice; if ids are positions and the samples there are not those
    that the teachers saw; or if content hashes cannot be made.

    Examples:
        >>> cache = softcache.open("runs/digits")
        >>> softcache.sample_ids([{"id": 7}, {"id": 3}], cache, id="id")
        array([7, 3])
    """
    return ids_to_numpy(unique_ids(dataset, cache, id, None))


def unique_ids(dataset: Any, cache: Cache, id: str | int | None, ids: Any) -> pa.Array:
    """Return the sample ids of a dataset: `ids`, or as `sample_ids` does.

    Samples whose contents can be compared with those of the build are compared. Raises AlignmentError unless each
    sample has an id of its own, and for samples that have changed.
    """
    require_cache(cache)
    _require_samples(dataset)
    if id is not None and ids is not None:
        raise AlignmentError(f"give id={id!r} or ids=, not both")
    columns = _columns(cache)
    how = id if id is not None or ids is not None else _declared(dataset, cache)
    hashes = content_hashes(dataset, columns, needed=how in (CONTENT_HASH, BY_POSITION))
    if ids is not None:
        found = id_array(ids)
    elif how == CONTENT_HASH:
        assert hashes is not None
        found = hash_ids(hashes)
    else:
        found = id_array(np.arange(len(dataset)) if how == BY_POSITION else _column_of(dataset, how))
    if len(found) != len(dataset):
        raise AlignmentError(f"{len(found):,} ids for {len(dataset):,} samples")
    if repeated := duplicates(found):
        raise AlignmentError(
            f"{counted(len(repeated), 'id')} of the dataset occur more than once: {name_some(repeated)}"
        )
    if hashes is not None and how != CONTENT_HASH:
        cache.check_contents(found, hashes, None if cache.commit.views == 1 else 0)
    return found


def _require_samples(dataset: Any) -> None:
    """Raise AlignmentError unless a dataset has samples by position."""
    kind = type(dataset).__name__
    if isinstance(dataset, Mapping):
        raise AlignmentError(f"this {kind} has no samples of its own; give one of its parts: {name_some(dataset)}")
    form = getattr(dataset, "format", None)
    if isinstance(form, Mapping) and form.get("type") in _TABLES:
        raise AlignmentError(f"this {kind} gives {form['type']} tables, not samples; use .with_format(None)")
    if isinstance(dataset, IterableDataset) or not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
        raise AlignmentError(
            f"this {kind} is a stream: its samples have no positions; use softcache.join around its DataLoader"
        )


def _columns(cache: Cache) -> list[str]:
    found = cache.commit.transfer_set.get("content")
    return [str(name) for name in found] if isinstance(found, list) else []


def _declared(dataset: Any, cache: Cache) -> str:
    """Return how the cache's recipe names samples, if the dataset's samples can be named in this way."""
    declared = cache.commit.transfer_set.get("id")
    if declared in (CONTENT_HASH, BY_POSITION):
        return str(declared)
    first = dataset[0] if len(dataset) and not hasattr(dataset, "column_names") else {}
    names = getattr(dataset, "column_names", None) or (first if isinstance(first, Mapping) else ())
    if isinstance(declared, str) and declared in names:
        return declared
    raise AlignmentError("say which sample is which: give id= (the key or position of the sample id) or ids=")


def _column_of(dataset: Any, id: str | int | None) -> Any:
    if id in (getattr(dataset, "column_names", None) or ()):
        return dataset.select_columns([id]).with_format("arrow")[:][id]
    return [_id_of(_field(dataset[i], id)) for i in range(len(dataset))]


def _field(sample: Any, id: Any) -> Any:
    try:
        return sample[id]
    except (KeyError, IndexError, TypeError) as e:
        what = f"keys {', '.join(map(str, sample))}" if isinstance(sample, Mapping) else f"a {type(sample).__name__}"
        raise AlignmentError(f"the dataset's samples have no field {id!r} for the ids; they are {what}") from e


def _id_of(value: Any) -> Any:
    """Return the number or string of an id. Many datasets give it as an array or tensor of one element, [] or [1]."""
    return value.item() if hasattr(value, "item") and math.prod(value.shape) == 1 else value


def content_hashes(dataset: Any, columns: list[str], *, needed: bool) -> Array | None:
    """Return the content hash of each sample, uint8 [n, 32]; None if it cannot be made and is not needed.

    Unless they are needed, only a `datasets.Dataset` is read: reading any other decodes its samples. Raises
    AlignmentError.
    """
    try:
        # Datasets of one's own often have `features` too.
        is_table = hasattr(dataset, "features") and hasattr(dataset, "column_names")
        if is_table and columns and set(columns) <= set(dataset.column_names):
            source = from_object(dataset)
            chunks = np.array_split(np.arange(len(source)), max(1, len(source) // _CHUNK))
            return np.concatenate([hash_rows(source.read(positions, columns), len(positions)) for positions in chunks])
        if not needed:
            return None
        starts = range(0, max(len(dataset), 1), _CHUNK)
        parts = [[dataset[i] for i in range(start, min(start + _CHUNK, len(dataset)))] for start in starts]
        return np.concatenate([hash_rows(from_samples(part, columns), len(part)) for part in parts])
    except TransferSetError as e:
        raise AlignmentError(
            f"the content hashes of this {type(dataset).__name__} cannot be made: {e}; give a datasets.Dataset with "
            f"the columns {', '.join(columns)}, or ids="
        ) from e
