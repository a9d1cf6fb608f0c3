"""Zarr v3 shards with one uncompressed chunk per array (docs/format.md, section 4.2).

The layout is small and fixed, so this module writes it without the zarr package. Plain zarr reads it.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from softcache.arrays import Array
from softcache.store.buffers import Buffer
from softcache.store.checksums import crc32c


def encode(
    values: Mapping[str, Array],
    valid: Array,
    sample_ids: pa.Array,
    views: Array,
    attributes: Mapping[str, Any],
    fills: Mapping[str, float | int],
) -> tuple[dict[str, bytes], tuple[Buffer, ...]]:
    """Return a shard's files by path inside its directory, and where its columns lie in them.

    Takes the arguments of `store.shards.write_shard`.
    """
    arrays: dict[str, Array] = dict(values) | {"valid": valid, "view": views.astype(np.int32)}
    parts = {"zarr.json": _json({"node_type": "group", "zarr_format": 3, "attributes": dict(attributes)})}
    for name, array in arrays.items():
        little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
        _add(parts, name, array.shape, array.dtype.name, little.tobytes(), _fill(fills.get(name, 0), array.dtype))
    if pa.types.is_int64(sample_ids.type):
        _add(parts, "sample_id", (len(sample_ids),), "int64", sample_ids.to_numpy().astype("<i8").tobytes(), 0)
    else:
        _add(parts, "sample_id", (len(sample_ids),), "string", _vlen_utf8(sample_ids), "")
    parts = dict(sorted(parts.items()))
    paths = list(parts)
    columns = [
        Buffer(
            name=name,
            dtype="uint8" if a.dtype == np.bool_ else a.dtype.name,
            file=paths.index(_chunk(name, a.ndim)),
            offset=0,
            bytes=a.nbytes,
        )
        for name, a in arrays.items()
    ]
    return parts, tuple(columns)


def listing(digests: Mapping[str, str]) -> bytes:
    """Return the listing whose hash names a shard's directory: lines of `<sha256>  <path>`, ordered by path."""
    return "".join(f"{digests[path]}  {path}\n" for path in sorted(digests)).encode()


def _add(parts: dict[str, bytes], name: str, shape: tuple[int, ...], dtype: str, data: bytes, fill: Any) -> None:
    if dtype == "string":
        serializer: dict[str, Any] = {"name": "vlen-utf8"}
    elif np.dtype(dtype).itemsize == 1:
        serializer = {"name": "bytes"}
    else:
        serializer = {"name": "bytes", "configuration": {"endian": "little"}}
    parts[f"{name}/zarr.json"] = _json(
        {
            "node_type": "array",
            "zarr_format": 3,
            "shape": list(shape),
            "data_type": dtype,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(shape)}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
            "fill_value": fill,
            "codecs": [serializer, {"name": "crc32c"}],
            "attributes": {},
            "storage_transformers": [],
        }
    )
    parts[_chunk(name, len(shape))] = data + struct.pack("<I", crc32c(data))


def _fill(value: float | int, dtype: np.dtype[Any]) -> Any:
    if dtype == np.bool_:
        return False
    return "NaN" if value != value else value


def _chunk(name: str, dimensions: int) -> str:
    return f"{name}/c" + "/0" * dimensions


def _vlen_utf8(strings: pa.Array) -> bytes:
    items = [s.encode() for s in strings.to_pylist()]
    return struct.pack("<I", len(items)) + b"".join(struct.pack("<I", len(s)) + s for s in items)


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2, sort_keys=True) + "\n").encode()
