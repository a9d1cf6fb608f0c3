"""Shards: what is recorded about each, and how columns become files. Knows columns, never what they mean."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from softcache.arrays import Array
from softcache.measures import ShardStatistics
from softcache.store import arrow, zarr
from softcache.store.buffers import Buffer, ListColumn
from softcache.store.checksums import Bytes, block_checksums, sha256
from softcache.store.files import Files
from softcache.store.layout import check_path

FORMATS = ("arrow", "zarr")


@dataclass(frozen=True)
class StoredFile:
    """One file of a cache: its path, size in bytes and SHA-256. Raises FormatError if the path is not valid."""

    path: str
    bytes: int
    sha256: str

    def __post_init__(self) -> None:
        check_path(self.path)

    def to_json(self) -> dict[str, Any]:
        """Return the file as receipts and commits hold it."""
        return dict(vars(self))


@dataclass(frozen=True)
class CheckedFile(StoredFile):
    """A file whose blocks can be checked one at a time: `blocks` are their CRC-32C."""

    blocks: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        return super().to_json() | {"blocks": list(self.blocks)}


def describe_file(path: str, data: Bytes) -> CheckedFile:
    """Return the path, size, hash and block checksums of a file that is about to be written."""
    return CheckedFile(path, len(data), sha256(data), tuple(block_checksums(data, own_checksum_bytes(path))))


def own_checksum_bytes(path: str) -> int:
    """Return how many bytes at a file's end are its own CRC-32C: 4 for a Zarr chunk, otherwise 0.

    Block checksums leave these bytes out: the CRC of any data followed by their CRC is always the same number, and
    could not tell one chunk from another.
    """
    return 4 if "/c/" in path.partition(".zarr/")[2] else 0


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One target's values for one fragment, as receipts and manifests record it."""

    target: str
    unit_key: str
    keys_sha256: str
    rows: int
    files: tuple[CheckedFile, ...]
    columns: tuple[Buffer, ...]
    statistics: ShardStatistics = field(compare=False)

    @property
    def bytes(self) -> int:
        """The size of all files together, in bytes."""
        return sum(f.bytes for f in self.files)


def write_shard(
    files: Files,
    form: str,
    stem: str,
    values: Mapping[str, Array | ListColumn],
    valid: Array,
    sample_ids: pa.Array,
    views: Array,
    attributes: Mapping[str, Any],
    fills: Mapping[str, float | int],
) -> tuple[tuple[CheckedFile, ...], tuple[Buffer, ...]]:
    """Write one target's shard durably; return its files, and where its columns lie in them.

    `form` is `arrow` or `zarr`; `stem` is the path before the hash. `values` are the codec's columns in order, each
    [rows, ...]; only Arrow shards can hold lists. `valid` is bool [rows], `sample_ids` int64 or string [rows], `views`
    int32 [rows]. `attributes` become the attributes of a Zarr group, and `fills`, by column, the fill values of its
    arrays; an Arrow shard has neither.
    """
    if form == "arrow":
        data, columns = arrow.encode(values, valid, sample_ids, views)
        return (put_file(files, f"{stem}-", data),), columns
    arrays = {name: column for name, column in values.items() if not isinstance(column, ListColumn)}
    parts, columns = zarr.encode(arrays, valid, sample_ids, views, attributes, fills)
    digest = sha256(zarr.listing({name: sha256(part) for name, part in parts.items()}))
    stored = []
    for name, part in parts.items():
        file = describe_file(f"{stem}-{digest}.zarr/{name}", part)
        files.put(file.path, part)
        stored.append(file)
    return tuple(stored), columns


def put_file(files: Files, stem: str, data: Bytes) -> CheckedFile:
    """Write an Arrow file; its path is `stem` followed by the hash of its content and `.arrow`."""
    digest = sha256(data)
    file = CheckedFile(f"{stem}{digest}.arrow", len(data), digest, tuple(block_checksums(data)))
    files.put(file.path, data)
    return file
