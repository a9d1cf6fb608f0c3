"""Sample ids as arrays, the keys hash of a fragment, and the keys of the index (docs/format.md, sections 3 and 8)."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from softcache.arrays import Array, plain
from softcache.errors import AlignmentError

_CHUNK = 65_536
_G = np.uint64(0x9E3779B97F4A7C15)
_M1 = np.uint64(0xBF58476D1CE4E5B9)
_M2 = np.uint64(0x94D049BB133111EB)


def id_array(ids: Any) -> pa.Array:
    """Return sample ids, given as a tensor, array or sequence, as an int64 or string Arrow array.

    Raises AlignmentError unless they are all integers within int64 or all non-empty strings.
    """
    if isinstance(ids, pa.ChunkedArray):
        ids = ids.combine_chunks()
    if isinstance(ids, (str, bytes)):
        raise AlignmentError(f"sample ids are a single string, {ids!r}; give a list")
    try:
        if isinstance(ids, pa.Array):
            array = ids
        elif isinstance(ids, Sequence):
            array = pa.array([plain(i) for i in ids])
        else:
            numbers = np.asarray(ids.cpu() if hasattr(ids, "cpu") else ids)
            if numbers.ndim != 1:
                raise AlignmentError(f"sample ids have the shape {list(numbers.shape)}; expected one dimension")
            array = pa.array(numbers)
        if len(array) == 0 and not pa.types.is_string(array.type):
            return pa.array([], pa.int64())
        kinds = pa.types
        if kinds.is_string(array.type) or kinds.is_large_string(array.type) or kinds.is_string_view(array.type):
            array = array.cast(pa.string())
        elif kinds.is_integer(array.type):
            array = array.cast(pa.int64())
        else:
            raise AlignmentError(f"sample ids are {array.type}; expected integers or strings")
    except (pa.ArrowException, TypeError, ValueError, OverflowError, UnicodeError) as e:
        raise AlignmentError(f"sample ids must be all integers (int64) or all strings: {e}") from e
    if array.null_count:
        raise AlignmentError(f"{array.null_count:,} sample ids are missing (null)")
    if pa.types.is_string(array.type) and len(array):
        _, offsets = string_buffers(array)
        if int(np.diff(offsets).min()) == 0:
            raise AlignmentError("a sample id is an empty string")
    return array


def duplicates(ids: pa.Array) -> list[Any]:
    """Return the ids that occur more than once. Uses 16 bytes of memory per id, however long the ids are."""
    keys = np.concatenate([index_keys(ids[i : i + _CHUNK]) for i in range(0, max(len(ids), 1), _CHUNK)])
    ordered = np.sort(keys)
    shared = ordered[1:][ordered[1:] == ordered[:-1]]
    suspects = ids.take(pa.array(np.flatnonzero(np.isin(keys, shared)))) if len(shared) else ids[:0]
    counts = pc.value_counts(suspects)
    return counts.filter(pc.greater(counts.field("counts"), 1)).field("values").to_pylist()  # type: ignore[no-any-return]


def string_buffers(array: pa.Array) -> tuple[Array, Array]:
    """Return a string array's bytes (uint8) and its offsets into them (int64 [rows + 1])."""
    _, offsets, data = array.buffers()
    starts = np.frombuffer(offsets, np.int32, len(array) + 1, array.offset * 4).astype(np.int64)
    return np.frombuffer(data if data is not None else b"", np.uint8), starts


def keys_digest(sample_ids: pa.Array, first_view: int, views: int, contents: Array) -> str:
    """Return the keys hash of a fragment; `contents` are content hashes, uint8 [samples, 32]."""
    digest = hashlib.sha256()
    tails = [struct.pack("<i", view) for view in range(first_view, first_view + views)]
    for sample_id, content in zip(sample_ids.to_pylist(), contents, strict=True):
        if isinstance(sample_id, int):
            head = b"i" + struct.pack("<q", sample_id)
        else:
            text = sample_id.encode()
            head = b"s" + struct.pack("<Q", len(text)) + text
        for tail in tails:
            digest.update(head + tail + content.tobytes())
    return digest.hexdigest()


def index_keys(sample_ids: pa.Array) -> Array:
    """Return the index keys of samples: integer ids themselves (int64 [n]), or hashes of string ids (uint64 [n])."""
    if pa.types.is_int64(sample_ids.type):
        return sample_ids.to_numpy()  # type: ignore[no-any-return]
    with np.errstate(over="ignore"):
        return _hash_strings(sample_ids)


def key_type(id_type: str) -> pa.DataType:
    """Return the Arrow type of the index's keys for an id type, `int64` or `string`."""
    return pa.int64() if id_type == "int64" else pa.uint64()


def mix(x: Array) -> Array:
    """Return uint64 numbers with their bits mixed, modulo 2^64: `mix` of docs/format.md, section 8."""
    x = (x ^ (x >> np.uint64(30))) * _M1
    x = (x ^ (x >> np.uint64(27))) * _M2
    mixed: Array = x ^ (x >> np.uint64(31))
    return mixed


def _hash_strings(sample_ids: pa.Array) -> Array:
    """Hash every string, uint64 [n]. Each round mixes in 8 more bytes of all strings that are long enough, at once."""
    data, offsets = string_buffers(sample_ids)
    starts, lengths = offsets[:-1], np.diff(offsets)
    hashes = mix(lengths.astype(np.uint64) + _G)
    places = np.arange(8)
    for begin in range(0, int(lengths.max(initial=0)), 8):
        rows = np.flatnonzero(lengths > begin)
        within = begin + places < lengths[rows, None]
        at = np.where(within, starts[rows, None] + begin + places, 0)
        words = np.where(within, data[at], 0).astype(np.uint8).view("<u8")[:, 0]
        hashes[rows] = mix((hashes[rows] ^ words) + _G)
    return hashes
